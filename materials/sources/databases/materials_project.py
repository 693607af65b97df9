"""The Materials Project: structures and hull energies, frozen into snapshots so that a campaign can be repeated.

GNoME entries (licence BY-NC) are left out unless asked for, and deprecated ones always.

The Materials Project's own client (mp-api) does the searching, held back: a criterion in each search (without one it
downloads the whole database), the GGA/GGA+U hull instead of the r2SCAN-mixed one, and a session of ours that checks
each page against the number of documents that the server says there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from materials.errors import IncompleteAnswer, InputError, SourceError, SourceRefused, SourceUnavailable
from materials.records import Failure
from materials.sources.databases.http import Inspect, open_session
from materials.sources.databases.snapshot import (
    KnownEnergy,
    KnownStructure,
    PageFolder,
    Snapshot,
    frozen_versions,
    is_name,
    is_version,
    known_or_failed,
    load_frozen,
    page_folder,
    save,
    shown_name,
    snapshot_path,
)
from materials.sources.files.parsing import structure_from_mapping
from materials.sources.files.usable import StructureTrouble, printable
from materials.stability.corrections import MP2020_LEVEL

if TYPE_CHECKING:
    import requests
    from mp_api.client.core import BaseRester


THERMO_TYPE = "GGA_GGA+U"
WHO = "the Materials Project"
# Lists are sent in pieces, so that no address grows longer than servers take.
IDS_A_SEARCH = 200
SYSTEMS_A_SEARCH = 100
ENDPOINT = "https://api.materialsproject.org/"
KEY_LENGTH = 32


class Client:
    """mp-api's resters for our session."""

    def __init__(
        self, session: requests.Session, key: str, endpoint: str, heartbeat: Mapping[str, Any], page_size: int
    ) -> None:
        self._arguments = {"api_key": key, "endpoint": endpoint, "session": session}
        self._heartbeat = heartbeat
        self.page_size = page_size
        self.version: str = heartbeat["db_version"]

    def rester(self, kind: type[BaseRester]) -> Any:
        """Make a rester that does not ask for the heartbeat: mp-api does that without a timeout or a second try."""
        answer = (self.version, self._heartbeat.get("access_controlled_batch_ids") or [])
        changes = {
            "_get_heartbeat_info": staticmethod(lambda endpoint: answer),
            # mp-api writes a JSON schema of the document, 50 ms, for each field that is asked for.
            "available_fields": list(kind.document_model.model_fields),
        }
        quiet = type(kind.__name__, (kind,), changes)
        return quiet(**self._arguments, use_document_model=False, mute_progress_bars=True, include_user_agent=False)


def page_check() -> Inspect:
    """A judge of pages: is each as long as the server's own count says, and does that count stay the same?"""
    totals: dict[str, int] = {}

    def objection(url: str, payload: Mapping[str, Any]) -> str | None:
        data, meta = payload.get("data"), payload.get("meta")
        if not isinstance(data, list):
            return "a page without data"
        if not all(isinstance(document, dict) for document in data):
            return "a page with a document that is no object"
        total = meta.get("total_doc") if isinstance(meta, Mapping) else None
        if not isinstance(total, int):
            return "a page that does not say how many documents there are"
        asked = parse_qs(urlsplit(url).query)
        skip, limit = int(asked.pop("_skip", ["0"])[0]), int(asked.pop("_limit", ["1000"])[0])
        due = max(0, min(limit, total - skip))
        if len(data) != due:
            return f"a page of {len(data)} documents where {due} were due, from {skip + 1} to {skip + due} of {total}"
        first = totals.setdefault(urlsplit(url).path + repr(sorted(asked.items())), total)
        if first != total:
            return f"the number of documents changed from {first} to {total} in the middle"
        return None

    return objection


def find_structures(
    client: Client, criteria: Mapping[str, Any]
) -> tuple[tuple[KnownStructure, ...], tuple[Failure, ...]]:
    """Find the structures that meet all criteria, sorted by id; deprecated ones are left out.

    Args:
        client: The client of one database version.
        criteria: Arguments of `SummaryRester.search`.
    """
    from mp_api.client.routes.materials.summary import SummaryRester

    rester = client.rester(SummaryRester)
    others = {name: value for name, value in criteria.items() if name not in ("material_ids", "chemsys")}
    ids_asked = _pieces(criteria.get("material_ids", []), IDS_A_SEARCH)
    known: dict[str, KnownStructure] = {}
    failed: dict[str, Failure] = {}
    systems_wanted = criteria.get("chemsys", [])
    # The server understands a wild card only in a search for one system.
    plain, wild = [s for s in systems_wanted if "*" not in s], [[s] for s in systems_wanted if "*" in s]
    systems_asked = [*(_pieces(plain, SYSTEMS_A_SEARCH) if plain or not wild else []), *wild]
    for ids, systems in product(ids_asked, systems_asked):
        search = partial(
            rester.search,
            **others,
            deprecated=False,
            material_ids=ids,
            chemsys=systems,
            fields=["material_id", "structure"],
            chunk_size=client.page_size,
            _sort_fields="material_id",
        )
        for document in _whole(search, "material_id"):
            name = plain_id(document["material_id"])
            item = known_or_failed(name, partial(structure_from_mapping, document.get("structure")))
            if isinstance(item, Failure):
                failed[name] = item
            else:
                known[name] = item
    return tuple(known[name] for name in sorted(known)), tuple(failed[name] for name in sorted(failed))


def find_hull_entries(client: Client, systems: Sequence[str]) -> tuple[KnownEnergy, ...]:
    """Find every corrected GGA/GGA+U energy in chemical systems and all their sub-systems, sorted by id."""
    from mp_api.client.routes.materials.thermo import ThermoRester

    wanted = sorted({"-".join(part) for system in systems for part in _parts(system.split("-"))})
    rester = client.rester(ThermoRester)
    entries = {}
    for piece in _pieces(wanted, SYSTEMS_A_SEARCH) if wanted else ():
        search = partial(
            rester.search,
            chemsys=piece,
            thermo_types=[THERMO_TYPE],
            fields=["material_id", "thermo_type", "energy_type", "energy_per_atom", "entries"],
            chunk_size=min(client.page_size, 500),
        )
        for document in _whole(search, "material_id"):
            entry = _hull_entry(document, client.version)
            entries[entry.entry_id] = entry
    return tuple(entries[name] for name in sorted(entries))


def _hull_entry(document: Mapping[str, Any], version: str) -> KnownEnergy:
    """Take the corrected energy out of a thermo document, and check that it is what it is called."""
    name = plain_id(document["material_id"])
    if not is_name(name):
        raise IncompleteAnswer(f"{WHO}: a thermo document has the id {shown_name(name)}, which cannot be written down")
    if str(document.get("thermo_type")) != THERMO_TYPE:
        found = shown_name(str(document.get("thermo_type")))
        raise IncompleteAnswer(f"{WHO}: {name} is of type {found} where {THERMO_TYPE} was asked for")
    entries, energy_type = document.get("entries"), document.get("energy_type")
    entry = entries.get(energy_type) if isinstance(entries, Mapping) and isinstance(energy_type, str) else None
    per_atom = document.get("energy_per_atom")
    if not isinstance(entry, Mapping) or not isinstance(per_atom, (int, float)):
        raise IncompleteAnswer(f"{WHO}: the thermo document of {name} lacks its entry or its energy")
    try:
        structure = structure_from_mapping(entry)
    except StructureTrouble as trouble:
        raise IncompleteAnswer(printable(f"{WHO}: the thermo document of {name} {trouble}")) from trouble
    energy = per_atom * len(structure)
    correction = entry.get("correction")  # emmet may leave it out
    if correction is not None and not abs(_sum_of(entry, name) - energy) <= 1e-3 * len(structure):
        raise IncompleteAnswer(f"{WHO}: {name} has two corrected energies that contradict each other")
    return KnownEnergy(
        entry_id=name,
        structure=structure,
        energy=energy,
        level_of_theory=MP2020_LEVEL,
        method=f"materials-project-{version}",
    )


def _sum_of(entry: Mapping[str, Any], name: str) -> float:
    """An entry's energy with its correction."""
    energy, correction = entry.get("energy"), entry.get("correction")
    if not (isinstance(energy, (int, float)) and isinstance(correction, (int, float))):
        raise IncompleteAnswer(f"{WHO}: the entry of {name} has an energy or a correction that is no number")
    return energy + correction


def plain_id(material_id: str) -> str:
    """The id as people know it: the server writes mp-135 in some documents as mp-aaaaaaff."""
    from emmet.core.mpid import validate_identifier

    try:
        parsed = validate_identifier(material_id)
    except ValueError:
        return str(material_id)
    return str(getattr(parsed, "string", parsed))


def _whole(search: Callable[[], list[dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """Run a search of mp-api's, and make sure that no document came twice: then another would be missing."""
    from mp_api.client.core.exceptions import MPRestError

    try:
        documents = search()
    except (MPRestError, ValueError) as error:
        raise SourceRefused(printable(f"{WHO} cannot be asked so: {error}")) from None
    names = {found for document in documents if isinstance(found := document.get(name), str)}
    if len(names) != len(documents):
        raise IncompleteAnswer(f"{WHO}: {len(documents)} documents with {len(names)} different ids; pages overlap")
    return documents


def _parts(symbols: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (part for n in range(1, len(symbols) + 1) for part in combinations(sorted(symbols), n))


def _pieces(items: Sequence[str], size: int) -> list[list[str] | None]:
    """Cut a list; no items at all are one search without that criterion."""
    return [list(items[at : at + size]) for at in range(0, len(items), size)] or [None]


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
    check_stop: Callable[[], None] = lambda: None,
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
        check_stop: Called before each page is asked for; raises what ends the pull. Pages that came are kept.

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
        check_stop=check_stop,
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
