"""Versions of the packages that decide a campaign's numbers."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "assay",
    "ase",
    "chgnet",
    "dask",
    "gpaw",
    "gpaw-data",
    "matgl",
    "moyopy",
    "mp-api",
    "numpy",
    "prefect",
    "pymatgen",
    "scikit-learn",
    "scikit-optimize",
    "scipy",
    "torch",
    "torch-sim-atomistic",
)


def versions() -> dict[str, str]:
    """Name the installed version of each package, and of Python."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
