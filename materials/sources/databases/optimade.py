"""OPTIMADE providers (doi:10.1038/s41597-021-00974-z): structures by a filter, frozen into snapshots.

Pages are followed through `links.next` with our own session: the optimade package's client repeats a lasting 429 for
ever, and loses the first page when the second fails.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from materials.crystals.serialization import structure_to_json
from materials.errors import IncompleteAnswer, InputError, SourceError, SourceRefused, SourceUnavailable
from materials.records import Failure, content_hash
from materials.sources.databases.http import on_its_server, open_session, take_json, without_secrets
from materials.sources.databases.snapshot import (
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
)
from materials.sources.files.usable import StructureTrouble, bare, sound

if TYPE_CHECKING:
    import requests
    from pymatgen.core import Structure

EMPTY_PAGES = 3  # in a row, without a structure that is new: a server that filters late may send some
PROVIDERS = {
    "aflow": "https://aflow.org/API/optimade",
    "alexandria": "https://alexandria.icams.rub.de/pbe",
    "alexandria-pbesol": "https://alexandria.icams.rub.de/pbesol",
    "cod": "https://www.crystallography.net/cod/optimade",
    "jarvis": "https://jarvis.nist.gov/optimade/jarvisdft",
    "mc3d": "https://aiida.materialscloud.org/mc3d/optimade",
    "mp": "https://optimade.materialsproject.org",
    "nomad": "https://nomad-lab.eu/prod/rae/optimade",
    "odbx": "https://optimade.odbx.science",
    "oqmd": "https://oqmd.org/optimade",
    "tcod": "https://www.crystallography.net/tcod/optimade",
}


def pull(
    *,
    provider_url: str,
    filter: str,
    snapshot_folder: Path,
    max_results: int | None = None,
    snapshot: str = "latest",
    page_size: int | None = None,
    attempts: int = 5,
    backoff_s: float = 1.0,
    timeout_s: float = 60.0,
    check_stop: Callable[[], None] = lambda: None,
) -> Snapshot:
    """Pull the structures that a filter finds, or take them from the disk.

    Args:
        provider_url: The base URL of any provider, with or without `/v1`, or a short name of `PROVIDERS`.
        filter: In OPTIMADE's language: `elements HAS ALL "Li","P" AND nelements=3`.
        snapshot_folder: Where snapshots are kept, and the pages of one that is not whole yet.
        max_results: Stop after so many structures, in the provider's order.
        snapshot: `latest` asks the provider; a version that was pulled before is taken from the folder. OPTIMADE knows
            no version of a database, so a version here is that of the interface and a hash of the answer.
        page_size: Structures a page; the provider's own choice if None (providers refuse more than they like).
        attempts: How often each page is asked for.
        backoff_s: First wait between two attempts, doubled each time, unless the server names one.
        timeout_s: Longest silence of the server.
        check_stop: Called before each page is read; raises what ends the pull. Pages that came are kept.

    Raises:
        InputError: no such provider, a filter that is no OPTIMADE, no such snapshot.
        SourceUnavailable: the provider cannot be reached or keeps failing.
        SourceRefused: the provider does not accept the query.
        IncompleteAnswer: the provider answers with less than it says there is.
    """
    base = _checked_provider(provider_url)
    _check_filter(filter)
    query = {"provider": base, "filter": filter, "max_results": max_results}
    if snapshot != "latest":
        return load_frozen(snapshot_folder, "optimade", snapshot, query)
    who = f"the OPTIMADE provider {urlsplit(base).hostname}"
    connect = partial(
        open_session,
        source=who,
        attempts=attempts,
        backoff_s=backoff_s,
        timeout_s=timeout_s,
        inspect=_objection,
        follow_redirects=True,
        parsed=True,
        check_stop=check_stop,
    )
    parameters = {"filter": filter, "response_format": "json", **({"page_limit": str(page_size)} if page_size else {})}
    try:
        first = connect().get(f"{base}/v1/structures", params=parameters)
    except (SourceUnavailable, IncompleteAnswer) as error:
        here = frozen_versions(snapshot_folder, "optimade", query)
        frozen = f", or give `snapshot: {here[-1]}`, which is at hand" if here else ""
        raise type(error)(f"{error}. Run the same command again later{frozen}") from None
    pulled, pages = _read_all(first, connect, snapshot_folder, query, who, check_stop)
    save(pulled, snapshot_folder)
    pages.clear()
    return pulled


def structure_of(document: Mapping[str, Any]) -> Structure:
    """Build the crystal of an OPTIMADE document.

    Raises:
        StructureTrouble: it is disordered, not periodic in three dimensions, or lacks positions.
    """
    try:
        return _structure_of(document)
    except StructureTrouble:
        raise
    except Exception as error:
        # Providers' documents break in every way there is; each is one Failure.
        said = " ".join(str(error).split())[:300]
        raise StructureTrouble("UnreadableStructure", f"is no whole OPTIMADE structure: {said}") from error


def _structure_of(document: Mapping[str, Any]) -> Structure:
    from optimade.adapters import Structure as Adapter

    attributes = document.get("attributes") or {}
    features = attributes.get("structure_features") or []
    if not (isinstance(features, list) and all(isinstance(feature, str) for feature in features)):
        raise StructureTrouble("UnreadableStructure", "has structure_features that are no list of words")
    if "disorder" in features or "assemblies" in features:
        raise StructureTrouble("Disordered", f"is described as {' and '.join(features)[:100]}")
    if features:
        told = ", ".join(features)[:100]
        raise StructureTrouble("UnreadableStructure", f"does not give every atom its place ({told})")
    periodic = attributes.get("nperiodic_dimensions", sum(attributes.get("dimension_types") or []))
    if periodic != 3:
        raise StructureTrouble("NotPeriodic", f"is periodic in {str(periodic)[:20]} dimensions, not in three")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = bare(Adapter(dict(document)).as_pymatgen)
        return sound(structure)


def _read_all(
    first: requests.Response,
    connect: Callable[..., requests.Session],
    folder: Path,
    query: Mapping[str, Any],
    who: str,
    check_stop: Callable[[], None],
) -> tuple[Snapshot, PageFolder]:
    """Read all pages from the first one on.

    Raises:
        IncompleteAnswer: fewer came than the provider counts, one came twice, or the pages do not end.
        SourceRefused: they lead to another server.
    """
    payload, url = take_json(first), first.url
    meta = _part(payload, "meta")
    version = _version(meta)
    name = partial("{}:{}".format, _prefix(meta) or urlsplit(query["provider"]).hostname)
    meta = {}  # a part of the page, which is not to be kept
    pages = _pages_of(payload, folder, query)
    session = connect(pages=pages)
    found: dict[str, KnownStructure | Failure] = {}
    visited, empty, most = {url}, 0, query["max_results"]
    try:
        while True:
            check_stop()
            before = len(found)
            _read_page(payload, found, name, most, who)
            link = _next(payload, url)
            counted = _part(payload, "meta").get("data_returned")
            if link is None or (most and len(found) >= most):
                break
            following = on_its_server(url, link)
            if following is None:
                raise SourceRefused(
                    f"{who} says that its next page is at {without_secrets(link)}, on another server, which is not"
                    " asked; give the address of that one as the provider if you trust it"
                )
            empty = empty + 1 if len(found) == before else 0
            if empty > EMPTY_PAGES:
                raise IncompleteAnswer(f"{who} sent {empty} pages in a row that bring nothing and name a next one")
            if following in visited:
                raise IncompleteAnswer(f"{who} sends its pages in a circle, {len(found)} structures long")
            visited.add(following)
            url = following
            payload = None  # before the next one is parsed: each may take a gigabyte
            payload = take_json(session.get(url))
    except SourceError as error:
        kept = pages.count()
        start_over = f"; delete {pages.folder} to start afresh" if kept and isinstance(error, IncompleteAnswer) else ""
        raise type(error)(f"{error}. {1 + kept} pages came; the same command goes on from there{start_over}") from None
    if link is None and isinstance(counted, int) and len(found) < min(counted, most or counted):
        raise IncompleteAnswer(f"{who} sent {len(found)} structures of the {counted} that it counts; try again")
    return _snapshot(version, [found[at] for at in sorted(found)], query), pages


def _read_page(
    payload: Mapping[str, Any],
    found: dict[str, KnownStructure | Failure],
    name: Callable[[str], str],
    most: int | None,
    who: str,
) -> None:
    """Read the structures of a page, as far as they are asked for: what is not a crystal in it is not kept."""
    for document in payload["data"]:
        if most and len(found) >= most:
            return
        if document["id"] in found:
            raise IncompleteAnswer(f"{who} sent {shown_name(document['id'])} twice; its pages overlap")
        found[document["id"]] = known_or_failed(name(document["id"]), partial(structure_of, document))


def _snapshot(version: str, items: Sequence[KnownStructure | Failure], query: Mapping[str, Any]) -> Snapshot:
    structures = [item for item in items if isinstance(item, KnownStructure)]
    failures = [item for item in items if isinstance(item, Failure)]
    content = [[known.id, structure_to_json(known.structure)] for known in structures]
    digest = content_hash([content, [[f.material_id, f.error] for f in failures]], 12)
    return Snapshot(
        source="optimade",
        database_version=f"{version}+{digest}",
        query=query,
        structures=tuple(structures),
        failures=tuple(failures),
    )


def _objection(url: str, payload: Mapping[str, Any]) -> str | None:
    data, meta, links = payload.get("data"), _part(payload, "meta"), _part(payload, "links")
    if not isinstance(data, list):
        return "a page without data"
    if not all(isinstance(document, Mapping) and isinstance(document.get("id"), str) for document in data):
        return "a page with a structure that has no id"
    for whole, name in ((payload, "meta"), (payload, "links"), (meta, "provider")):
        if whole.get(name) and not isinstance(whole[name], Mapping):
            return f"a page whose `{name}` is a {type(whole[name]).__name__} where an object was due"
    if not isinstance(links.get("next") or "", str | Mapping):
        return "a page whose next page is neither an address nor an object with one"
    if not is_version(_version(meta)):
        return f"a page of version {shown_name(_version(meta))!r} of the interface, which is no version"
    if meta.get("more_data_available") and _next(payload, url) is None:
        return "a page that says there is more, and not where"
    return None


def _part(whole: Any, name: str) -> Mapping[str, Any]:
    """An object in an object; an empty one where there is none, or something else."""
    part = whole.get(name) if isinstance(whole, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _version(meta: Mapping[str, Any]) -> str:
    """The version of the interface, 1 where it is not said; 1.2.0-rc.1 and 1.2.0~develop are written with dots."""
    return str(meta.get("api_version") or 1).replace("-", ".").replace("~", ".")


def _prefix(meta: Mapping[str, Any]) -> str | None:
    """What the provider calls itself, if that is a word to begin a name with."""
    prefix = _part(meta, "provider").get("prefix")
    return prefix if isinstance(prefix, str) and len(prefix) <= 64 and is_name(prefix) else None


def _next(payload: Mapping[str, Any], url: str) -> str | None:
    link = _part(payload, "links").get("next")
    href = link.get("href") if isinstance(link, Mapping) else link
    if not (isinstance(href, str) and href):
        return None
    try:
        return urljoin(url, href)
    except ValueError:
        return href  # no address, which is said where it is followed


def _pages_of(first: Mapping[str, Any], folder: Path, query: Mapping[str, Any]) -> PageFolder:
    """The pages kept of a pull that began with this very page: after a change of the database they do not count."""
    counted = _part(first, "meta").get("data_returned")
    try:
        beginning = content_hash([first.get("data"), counted])
    except (ValueError, RecursionError):  # 1e999, or brackets without end: one document's trouble, not the page's
        beginning = content_hash([[document["id"] for document in first["data"]], str(counted)])
    return page_folder(folder, "optimade", beginning, query)


def _checked_provider(provider: str) -> str:
    base = PROVIDERS.get(provider, provider).rstrip("/").removesuffix("/v1")
    parts = urlsplit(base)
    if parts.scheme in ("http", "https") and parts.hostname:
        return base
    near = difflib.get_close_matches(provider, PROVIDERS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"optimade: provider {provider!r} is neither a URL nor one of {', '.join(PROVIDERS)}{hint}")


def _check_filter(filter: str) -> None:
    from optimade.exceptions import BadRequest
    from optimade.filterparser import LarkParser, ParserError

    try:
        LarkParser().parse(filter)
    except (BadRequest, ParserError) as error:
        said = str(error).split("Lark traceback:")[-1].strip().split("Expected one of")[0].rstrip()
        raise InputError(f"optimade: filter {filter!r} is no OPTIMADE: {' '.join(said.split())}") from None
