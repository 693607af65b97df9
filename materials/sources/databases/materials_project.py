"""Structures and hull energies from the Materials Project, frozen into snapshots so that a campaign can be repeated.

GNoME entries (licence BY-NC) are left out unless asked for, and deprecated ones always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from materials.errors import IncompleteAnswer, InputError, SourceError, SourceUnavailable
from materials.sources.databases.http import open_session
from materials.sources.databases.mp_client import (
    THERMO_TYPE,
    WHO,
    Client,
    find_hull_entries,
    find_structures,
    page_check,
)
from materials.sources.databases.snapshot import (
    PageFolder,
    Snapshot,
    frozen_versions,
    is_version,
    load_frozen,
    page_folder,
    save,
    snapshot_path,
)

if TYPE_CHECKING:
    import requests

ENDPOINT = "https://api.materialsproject.org/"
KEY_LENGTH = 32


def pull(
    *,
    key: str | None,
    snapshot_folder: Path,
    chemsys: Sequence[str] = (),
    elements: Sequence[str] = (),
    exclude_elements: Sequence[str] = (),
    formula: Sequence[str] = (),
    material_ids: Sequence[str] = (),
    num_sites: tuple[int, int] | None = None,
    num_elements: tuple[int, int] | None = None,
    energy_above_hull: tuple[float, float] | None = None,
    band_gap: tuple[float, float] | None = None,
    is_stable: bool | None = None,
    theoretical: bool | None = None,
    include_gnome: bool = False,
    snapshot: str = "latest",
    hull: bool = True,
    endpoint: str | None = None,
    page_size: int = 1000,
    attempts: int = 5,
    backoff_s: float = 1.0,
    timeout_s: float = 60.0,
) -> Snapshot:
    """Pull the materials that meet all criteria, and the phases they compete with, or take them from the disk.

    At least one criterion must narrow the search. Ranges are (least, most), both ends included.

    Args:
        key: The API key, 32 characters; not needed for a snapshot that is at hand.
        snapshot_folder: Where snapshots are kept, and the pages of one that is not whole yet.
        chemsys: `Li-P-Zn` has exactly these elements; `Li-*` any second one.
        elements: Holds all of these.
        exclude_elements: Holds none of these.
        formula: Such as `LiZnP` or `ABC3`.
        material_ids: Such as `mp-9124`.
        num_sites: Sites in the cell.
        num_elements: Number of elements.
        energy_above_hull: eV/atom, the Materials Project's own.
        band_gap: eV, the Materials Project's own.
        is_stable: On the Materials Project's hull, or not.
        theoretical: False for what was seen in an experiment.
        include_gnome: Also GNoME's structures, whose licence is BY-NC.
        snapshot: `latest` asks which version the database has, and pulls it unless it is at hand; a version such as
            `2025.09.25` is taken from the folder, and the network is not asked.
        hull: Also pull the corrected GGA/GGA+U energies of each chemical system of the materials and of all its
            sub-systems.
        endpoint: Another server with the same interface; the path's trailing slash may be left out.
        page_size: Documents a page, at most 1000.
        attempts: How often each page is asked for.
        backoff_s: First wait between two attempts, doubled each time, unless the server names one.
        timeout_s: Longest silence of the server.

    Raises:
        InputError: no criterion, no key or one of another length, an unsafe endpoint, no such snapshot.
        SourceUnavailable: the server cannot be reached or keeps failing.
        SourceRefused: the server does not accept the key or the query.
        IncompleteAnswer: the server keeps answering with less than it says there is.
    """
    given: dict[str, Any] = {
        "chemsys": _sorted_systems(chemsys),
        "elements": sorted(elements),
        "exclude_elements": sorted(exclude_elements),
        "formula": sorted(formula),
        "material_ids": sorted(material_ids),
        "num_sites": num_sites,
        "num_elements": num_elements,
        "energy_above_hull": energy_above_hull,
        "band_gap": band_gap,
        "is_stable": is_stable,
        "theoretical": theoretical,
    }
    # Lists, not tuples: the query is compared with one that was read from JSON.
    criteria = {n: list(v) if isinstance(v, tuple) else v for n, v in given.items() if v not in ([], None)}
    if not criteria:
        raise InputError("materials_project: give at least one criterion; without one the whole database would come")
    criteria["include_gnome"] = include_gnome
    endpoint = _checked_endpoint(endpoint)
    query = {**criteria, "hull": hull, "thermo_type": THERMO_TYPE, "endpoint": endpoint}
    if snapshot != "latest":
        return load_frozen(snapshot_folder, "materials_project", snapshot, query)
    key = _checked_key(key)
    connect = partial(
        open_session,
        source=WHO,
        headers={"x-api-key": key},
        attempts=attempts,
        backoff_s=backoff_s,
        timeout_s=timeout_s,
    )
    return _pull_latest(connect, criteria, query, key, snapshot_folder, page_size)


def _pull_latest(
    connect: Callable[..., requests.Session],
    criteria: Mapping[str, Any],
    query: Mapping[str, Any],
    key: str,
    folder: Path,
    page_size: int,
) -> Snapshot:
    try:
        heartbeat = _heartbeat(connect(inspect=_no_version), query["endpoint"])
    except (SourceUnavailable, IncompleteAnswer) as error:
        raise type(error)(_how_to_go_on(str(error), folder, query)) from None
    version = heartbeat["db_version"]
    if snapshot_path(folder, "materials_project", version, query).exists():
        return load_frozen(folder, "materials_project", version, query)
    pages = page_folder(folder, "materials_project", version, query)
    session = connect(inspect=page_check(), pages=pages)
    pulled = _pull(criteria, query, Client(session, key, query["endpoint"], heartbeat, page_size), pages)
    save(pulled, folder)
    pages.clear()
    return pulled


def _pull(criteria: Mapping[str, Any], query: Mapping[str, Any], client: Client, pages: PageFolder) -> Snapshot:
    try:
        structures, failures = find_structures(client, criteria)
        systems = sorted({known.structure.chemical_system for known in structures})
        entries = find_hull_entries(client, systems) if query["hull"] else ()
    except SourceError as error:
        kept = pages.count()
        start_over = f"; delete {pages.folder} to start afresh" if kept and isinstance(error, IncompleteAnswer) else ""
        raise type(error)(f"{error}. {kept} pages were kept: the same command goes on from there{start_over}") from None
    return Snapshot(
        source="materials_project",
        database_version=client.version,
        query=query,
        structures=structures,
        hull_entries=entries,
        failures=failures,
    )


def _heartbeat(session: requests.Session, endpoint: str) -> dict[str, Any]:
    return session.get(f"{endpoint}heartbeat").json()


def _no_version(url: str, payload: Mapping[str, Any]) -> str | None:
    return None if is_version(payload.get("db_version")) else "a heartbeat without a version that can be used"


def _how_to_go_on(said: str, folder: Path, query: Mapping[str, Any]) -> str:
    here = frozen_versions(folder, "materials_project", query)
    frozen = f", or give `snapshot: {here[-1]}`, which is at hand" if here else ""
    return f"{said}. Run the same command again later{frozen}"


def _sorted_systems(chemsys: Sequence[str]) -> list[str]:
    """The server knows a system only with its symbols in alphabetical order."""
    return sorted({"-".join(sorted(system.split("-"))) for system in chemsys})


def _checked_endpoint(endpoint: str | None) -> str:
    url = (endpoint or ENDPOINT).rstrip("/") + "/"
    parts = urlsplit(url)
    at_home = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and at_home):
        raise InputError(
            f"materials_project: endpoint {endpoint!r} would carry the key unencrypted; give an https address"
        )
    return url


def _checked_key(key: str | None) -> str:
    if not key:
        raise InputError(
            "materials_project: no key; set MP_API_KEY (https://next-gen.materialsproject.org/api), "
            "or give a `snapshot` version that is at hand"
        )
    if len(key) != KEY_LENGTH or not key.isalnum():
        raise InputError(
            f"materials_project: the key has {len(key)} characters; keys have {KEY_LENGTH} letters and digits"
        )
    return key
