"""`assay doctor`: checks of what is installed and reachable, and of what shadows it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

from materials.errors import AssayError, LedgerOutdated


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = True  # without it the quickstart does not run


def examine(ledger_url: str | None) -> list[Check]:
    """Look at everything a campaign may need."""
    checks: list[Callable[[], Check]] = [
        _python,
        *[lambda name=name: shadowed(name) for name in ("flows", "materials", "models")],
        lambda: potential("chgnet"),
        _compiler,
        lambda: _importable("matgl", "other potentials of the matgl family", "pip install 'matgl>=4.1.2,<5'"),
        lambda: _dft("gpaw"),
        lambda: _dft("espresso", needed=False),
        _vasp,
        lambda: _ledger(ledger_url),
        _prefect,
        _gpu,
        _materials_project,
    ]
    return [check() for check in checks]


def written(checks: list[Check], style: str) -> str:
    """Write the checks for a person, or as JSON."""
    if style == "json":
        return json.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False)
    lines = []
    width = max(18, *(len(check.name) for check in checks))
    for check in checks:
        mark = "ok  " if check.ok else ("FAIL" if check.needed else "none")
        lines.append(f"{mark}  {check.name:{width}s} {check.found}")
        if not check.ok and check.fix:
            lines.append(f"      {'':{width}s} fix: {check.fix}")
    return "\n".join(lines)


def _python() -> Check:
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    return Check(name="python", ok=sys.version_info >= (3, 11), found=found, fix="use Python >= 3.11")


def shadowed(name: str) -> Check:
    """Look whether importing a room of ours finds ours."""
    spec = importlib.util.find_spec(name)
    here = Path(__file__).resolve().parents[2] / name
    found = Path(spec.origin).resolve().parent if spec and spec.origin else None
    if found != here:
        return Check(
            name=f"package {name}",
            ok=False,
            found=f"import {name} finds {found}, not {here}",
            fix=f"start Assay from another folder, or uninstall the package that ships {name}/",
        )
    others = sorted(set(packages_distributions().get(name, [])) - {"assay"})
    return Check(
        name=f"package {name}",
        ok=not others,
        found=str(found) + (f", also shipped by {', '.join(others)}" if others else ""),
        fix=f"uninstall {', '.join(others)}" if others else "",
    )


def _importable(package: str, what: str, fix: str) -> Check:
    there = importlib.util.find_spec(package) is not None
    return Check(name=package, ok=there, found=what if there else "not installed", fix=fix, needed=False)


def potential(kind: str, *, device: str = "cpu") -> Check:
    """Load a potential, which checks that it gets well-known compounds right."""
    try:
        from models.potentials.registry import load_potential

        identity = load_potential(kind, device=device)
    except (AssayError, ImportError) as error:
        return Check(name=kind, ok=False, found=str(error), fix=f"pip install {kind}")
    found = f"{identity.method}, {identity.level_of_theory}, weights {identity.weights_hash[:8]}, anchors agree"
    return Check(name=kind, ok=True, found=found)


def _compiler() -> Check:
    from models.potentials.chgnet import kernel

    there = kernel.library() is not None
    return Check(
        name="compiler",
        ok=there,
        found=f"{kernel.compiler_found()} builds CHGNet's kernel"
        if there
        else "no C++ compiler that builds CHGNet's kernel: CHGNet runs at half of its pace",
        fix="install g++, or name a compiler in the variable CXX",
        needed=False,
    )


def _dft(name: str, *, needed: bool = True) -> Check:
    from models.dft.registry import CodeChoice, open_code

    try:
        return Check(name=name, ok=True, found=open_code(CodeChoice(name=name)).version(), needed=needed)
    except AssayError as error:
        return Check(name=name, ok=False, found="not usable", fix=str(error), needed=needed)


def _vasp() -> Check:
    from models.dft.vasp.code import Vasp
    from models.dft.vasp.potcars import library

    try:
        version = Vasp().version()
        return Check(name="vasp", ok=True, found=f"{version}, POTCARs in {library()}", needed=False)
    except AssayError as error:
        return Check(name="vasp", ok=False, found="not usable", fix=str(error), needed=False)


def _ledger(url: str | None) -> Check:
    from materials.store.ledger import Ledger
    from materials.store.schema import SCHEMA_VERSION

    try:
        with Ledger.open(url, must_exist=True) as ledger:
            found = f"{ledger.url}, schema version {SCHEMA_VERSION}, {len(ledger.campaigns())} campaigns"
            return Check(name="database", ok=True, found=found)
    except LedgerOutdated as error:
        return Check(name="database", ok=False, found=str(error), fix="assay db upgrade")
    except AssayError as error:
        missing = url is None and not Path("assay.db").exists()
        if missing:
            return Check(name="database", ok=True, found="none yet: the first assay run makes ./assay.db")
        return Check(name="database", ok=False, found=str(error), fix="see ASSAY_DATABASE_URL in flows/README.md")


def _prefect() -> Check:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Check(name="prefect", ok=True, found="no PREFECT_API_URL: campaigns run without a server", needed=False)
    import requests

    try:
        requests.get(f"{url.rstrip('/')}/health", timeout=5).raise_for_status()
    except requests.RequestException as error:
        return Check(
            name="prefect",
            ok=False,
            found=f"no answer ({type(error).__name__}) from the server that PREFECT_API_URL names",
            fix="assay up, or unset PREFECT_API_URL",
        )
    return Check(name="prefect", ok=True, found="the server that PREFECT_API_URL names answers")


def _gpu() -> Check:
    from models.potentials.registry import cuda_devices

    devices = cuda_devices()
    return Check(
        name="gpu",
        ok=bool(devices),
        found=", ".join(devices) or "no CUDA device: the potential runs on the CPU",
        needed=False,
    )


def _materials_project() -> Check:
    key = os.environ.get("MP_API_KEY")
    if key is None:
        found, fix = "no MP_API_KEY: only sources of kind materials_project need one", "export MP_API_KEY=…"
        return Check(name="materials project", ok=False, found=found, fix=fix, needed=False)
    return Check(
        name="materials project",
        ok=len(key) == 32,
        found="MP_API_KEY is set" if len(key) == 32 else f"MP_API_KEY has {len(key)} characters; a key has 32",
        fix="copy the key from https://next-gen.materialsproject.org/api",
        needed=False,
    )
