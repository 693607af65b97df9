"""Beliefs with the means and standard deviations that a test wants."""

from dataclasses import replace

import numpy as np

from models.learning.surrogate import Posterior, predict


def belief(mean, std, floor=None) -> Posterior:
    nothing = predict(np.zeros((len(mean), 1)), observed=[], answers=[], floor=floor)
    return replace(nothing, mean=np.array(mean, dtype=float), std=np.array(std, dtype=float))
