"""Compiled kernel of CHGNet's layers, built once for the processor at hand, called through ctypes.

Pointers to tensors cross this border unchecked: float32 and int64, contiguous, on the CPU, of the shapes that
`layers.passed` names.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("layers.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
WIDTH = 64  # features
BLOCK = 48  # rows that the kernel takes through at once

_Pointer = ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = (
        ("own", _Pointer),
        ("own_back", _Pointer),
        ("second", _Pointer * 2),
        ("second_back", _Pointer * 2),
        ("bias", _Pointer * 2),
        ("scale", _Pointer * 2),
        ("shift", _Pointer * 2),
    )


class _Rows(ctypes.Structure):
    _fields_ = (
        ("n", ctypes.c_int64),
        ("n_terms", ctypes.c_int64),
        ("term", _Pointer * 3),
        ("n_factors", ctypes.c_int64),
        ("factor", _Pointer * 2),
        ("weight", _Pointer),
        ("receiver", _Pointer),
    )


@cache
def library() -> ctypes.CDLL | None:
    """Build and load the kernel; None, with a warning, where there is no compiler that can.

    The build is kept in the user's cache folder, under a name that says of which source and for which processor it
    is; without a writable one it is made for this process alone.
    """
    compiler = compiler_found()
    if compiler is None:
        _logger.warning(
            "CHGNet runs at half of its pace: no C++ compiler found; install g++, or name one in the variable CXX"
        )
        return None
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay"
        folder.mkdir(parents=True, exist_ok=True)
        return _built(compiler, folder)
    except (OSError, RuntimeError):  # no home, or none to write to
        with tempfile.TemporaryDirectory() as own:
            try:
                return _built(compiler, Path(own))
            except OSError as error:
                _logger.warning("CHGNet runs at half of its pace: its kernel could not be built: %s", error)
                return None


def compiler_found() -> str | None:
    """The C++ compiler that would be used: that which CXX names, or the first of the usual ones."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, (named,) if named else COMPILERS)), None)


def dense(rows: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor) -> Tensor:
    """Multiply rows `(n, n_in)` by a weight `(n_in, n_out)`, `n_in` at most 512, `n_out` a multiple of 32; add a bias.

    What a row comes to does not depend, to the last digit, on how many others there are. Fills and gives back `result`.
    """
    found = library()
    if found is None:
        raise RuntimeError("there is no kernel; ask library() first")
    n_in, n_out = weight.shape
    if n_out % 32 or n_in > 512:
        raise ValueError(f"the kernel multiplies by no weight of shape {tuple(weight.shape)}")
    sizes = map(ctypes.c_int64, (len(rows), n_in, n_out))
    found.dense(*sizes, _pointer(rows), _pointer(weight), _pointer(bias), _pointer(result))
    return result


class Layer:
    """A gated perceptron as the kernel takes it; the tensors are those of `chgnet_layers.Gated`."""

    def __init__(
        self, own: Tensor | None, second: Tensor | None, second_bias: Tensor | None, *, scale: Tensor, shift: Tensor
    ) -> None:
        """Keep the weights, and copies of them the other way round for the gradient."""
        found = library()
        if found is None:
            raise RuntimeError("there is no kernel; ask library() first")
        self._library = found
        self._deep = second is not None
        # What a pass keeps for its gradient. The memory stays: to be given pages anew costs as much as to fill them.
        self._scratch = torch.empty(0, dtype=torch.float32)
        self._passes = 0
        own_back = None if own is None else own.T.contiguous()
        second_back = None if second is None else second.transpose(1, 2).contiguous()
        self._kept = (own, own_back, second, second_back, second_bias, scale, shift)
        self._layer = _Layer(
            own=_pointer(own),
            own_back=_pointer(own_back),
            second=_pointers(second, 2),
            second_back=_pointers(second_back, 2),
            bias=_pointers(second_bias, 2),
            scale=_pointers(scale, 2),
            shift=_pointers(shift, 2),
        )

    def forward(
        self, rows: Rows, own: Tensor | None, scales: Tensor | None, tables: Sequence[Tensor], result: Tensor
    ) -> int:
        """Fill `result`, which starts at zero where there are receivers; return the number of this pass."""
        n = (len(rows.terms[0]) + BLOCK) * (4 if self._deep else 2) * WIDTH
        if len(self._scratch) < n:
            self._scratch = torch.empty(n, dtype=torch.float32)
        self._library.forward(
            ctypes.byref(self._layer),
            ctypes.byref(_rows(rows)),
            _pointers(tables, 3),
            _pointer(own),
            _pointer(scales),
            _pointer(self._scratch),
            _pointer(result),
        )
        self._passes += 1
        return self._passes

    def backward(
        self,
        number: int,
        rows: Rows,
        own: Tensor | None,
        scales: Tensor | None,
        slope: Tensor,
        by_own: Tensor | None,
        by_scales: Tensor | None,
        by_tables: Sequence[Tensor],
    ) -> None:
        """Fill `by_own`, and add to the others, what a slope by the result of pass `number` gives by each input.

        Raises:
            RuntimeError: Another pass came between, and what was kept of this one is gone.
        """
        if number != self._passes:
            raise RuntimeError("the layer has been passed again: a gradient must be taken before the next pass")
        self._library.backward(
            ctypes.byref(self._layer),
            ctypes.byref(_rows(rows)),
            _pointer(own),
            _pointer(scales),
            _pointer(self._scratch),
            _pointer(slope),
            _pointers(by_tables, 3),
            _pointer(by_own),
            _pointer(by_scales),
        )


_logger = logging.getLogger(__name__)


def _built(compiler: str, folder: Path) -> ctypes.CDLL:
    content = SOURCE.read_bytes() + repr((compiler, FLAGS, _processor())).encode()
    target = folder / f"chgnet-layers-{hashlib.sha256(content).hexdigest()[:16]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / target.name
            command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                raise OSError(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr.strip()[:500]}")
            made.replace(target)
    return ctypes.CDLL(str(target))


def _processor() -> str:
    """What `-march=native` depends on: a home may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _rows(rows: Rows) -> _Rows:
    return _Rows(
        n=len(rows.terms[0]),
        n_terms=len(rows.terms),
        term=_pointers(rows.terms, 3),
        n_factors=len(rows.factors),
        factor=_pointers(rows.factors, 2),
        weight=_pointer(rows.weight),
        receiver=_pointer(rows.receiver),
    )


def _pointer(tensor: Tensor | None) -> _Pointer:
    if tensor is None:
        return _Pointer(None)
    if not tensor.is_contiguous():
        raise ValueError(f"the kernel reads contiguous tensors only, not strides {tensor.stride()}")
    return _Pointer(tensor.data_ptr())


def _pointers(tensors: Sequence[Tensor] | Tensor | None, n: int) -> ctypes.Array[_Pointer]:
    return (_Pointer * n)(*([] if tensors is None else map(_pointer, tensors)))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where the rows of a layer take their terms from and where their outputs go.

    With a receiver, a row's output is multiplied by its `weight` and by its rows of the table of scales, one for
    each of `factors`, and added to its receiver's; without one it is added to the row's own features.
    """

    terms: tuple[Tensor, ...]  # indices (n,) into each table of terms
    factors: tuple[Tensor, ...] = ()  # indices (n,) into the table of scales
    weight: Tensor | None = None  # (n,)
    receiver: Tensor | None = None  # (n,)
    n_receivers: int = 0
