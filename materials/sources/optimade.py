"""Structures from any database that speaks OPTIMADE (doi:10.1038/s41597-021-00974-z), frozen into snapshots.

Pages are followed through `links.next` with our own session: the optimade package's client repeats a lasting 429 for
ever, and loses the first page when the second fails.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from materials.errors import IncompleteAnswer, InputError, SourceError, SourceRefused, SourceUnavailable
from materials.records import Failure, content_hash
from materials.serialization import structure_to_json
from materials.sources.snapshot import (
    KnownStructure,
    PageFolder,
    Snapshot,
    frozen_versions,
    load_frozen,
    page_folder,
    save,
)
from materials.sources.sound import StructureTrouble, bare, sound
from materials.sources.web import on_its_server, open_session, without_secrets

if TYPE_CHECKING:
    import requests
    from pymatgen.core import Structure

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
    )
    parameters = {"filter": filter, "response_format": "json", **({"page_limit": str(page_size)} if page_size else {})}
    try:
        first = connect().get(f"{base}/v1/structures", params=parameters)
    except (SourceUnavailable, IncompleteAnswer) as error:
        here = frozen_versions(snapshot_folder, "optimade", query)
        frozen = f", or give `snapshot: {here[-1]}`, which is at hand" if here else ""
        raise type(error)(f"{error}. Run the same command again later{frozen}") from None
    pages = _pages_of(first.json(), snapshot_folder, query)
    documents = _follow(first, connect(pages=pages), pages, max_results, who)
    pulled = _snapshot(first.json(), documents, query)
    save(pulled, snapshot_folder)
    pages.clear()
    return pulled


def structure_of(document: Mapping[str, Any]) -> Structure:
    """Build the crystal of an OPTIMADE document.

    Raises:
        StructureTrouble: it is disordered, not periodic in three dimensions, or lacks positions.
    """
    from optimade.adapters import Structure as Adapter

    attributes = document.get("attributes") or {}
    features = attributes.get("structure_features") or []
    if "disorder" in features or "assemblies" in features:
        raise StructureTrouble("Disordered", f"is described as {' and '.join(features)}")
    if features:
        raise StructureTrouble("UnreadableStructure", f"does not give every atom its place ({', '.join(features)})")
    periodic = attributes.get("nperiodic_dimensions", sum(attributes.get("dimension_types") or []))
    if periodic != 3:
        raise StructureTrouble("NotPeriodic", f"is periodic in {periodic} dimensions, not in three")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structure = bare(Adapter(dict(document)).as_pymatgen)
        except Exception as error:
            # Providers' documents break in every way there is; each is one Failure.
            said = " ".join(str(error).split())[:300]
            raise StructureTrouble("UnreadableStructure", f"is no whole OPTIMADE structure: {said}") from error
    return sound(structure)


def _follow(
    first: requests.Response, session: requests.Session, pages: PageFolder, max_results: int | None, who: str
) -> list[dict[str, Any]]:
    """All documents from the first page on.

    Raises:
        IncompleteAnswer: fewer came than the provider counts, one came twice, or the pages go in a circle.
        SourceRefused: they lead to another server.
    """
    found: dict[str, dict[str, Any]] = {}
    payload, url = first.json(), first.url
    visited = {url}
    try:
        while True:
            for document in payload["data"]:
                if document["id"] in found:
                    raise IncompleteAnswer(f"{who} sent {document['id']} twice; its pages overlap")
                found[document["id"]] = document
            link = _next(payload, url)
            following = link and on_its_server(url, link)
            if link is None or (max_results and len(found) >= max_results):
                break
            if following is None:
                raise SourceRefused(
                    f"{who} says that its next page is at {without_secrets(link)}, on another server, which is not"
                    " asked; give the address of that one as the provider if you trust it"
                )
            if following in visited:
                raise IncompleteAnswer(f"{who} sends its pages in a circle, {len(found)} structures long")
            visited.add(following)
            url = following
            payload = session.get(url).json()
    except SourceError as error:
        raise type(error)(f"{error}. {1 + pages.count()} pages came; the same command goes on from there") from None
    counted = (payload.get("meta") or {}).get("data_returned")
    if link is None and isinstance(counted, int) and len(found) < counted:
        raise IncompleteAnswer(f"{who} sent {len(found)} structures of the {counted} that it counts; try again")
    return list(found.values())[:max_results]


def _snapshot(first: Mapping[str, Any], documents: list[dict[str, Any]], query: Mapping[str, Any]) -> Snapshot:
    meta = first.get("meta") or {}
    prefix = (meta.get("provider") or {}).get("prefix") or urlsplit(query["provider"]).hostname
    structures, failures = [], []
    for document in sorted(documents, key=lambda document: str(document["id"])):
        name = f"{prefix}:{document['id']}"
        try:
            structures.append(KnownStructure(id=name, structure=structure_of(document)))
        except StructureTrouble as trouble:
            message = f"{name} {trouble}"
            failures.append(Failure(material_id=name, stage="propose", error=trouble.error, message=message))
    content = [[known.id, structure_to_json(known.structure)] for known in structures]
    digest = content_hash([content, [[f.material_id, f.error] for f in failures]], 12)
    return Snapshot(
        source="optimade",
        database_version=f"{meta.get('api_version') or 1}+{digest}",
        query=query,
        structures=tuple(structures),
        failures=tuple(failures),
    )


def _objection(url: str, payload: Mapping[str, Any]) -> str | None:
    data = payload.get("data")
    if not isinstance(data, list):
        return "a page without data"
    if not all(isinstance(document, Mapping) and isinstance(document.get("id"), str) for document in data):
        return "a page with a structure that has no id"
    if (payload.get("meta") or {}).get("more_data_available") and _next(payload, url) is None:
        return "a page that says there is more, and not where"
    return None


def _next(payload: Mapping[str, Any], url: str) -> str | None:
    link = (payload.get("links") or {}).get("next")
    href = link.get("href") if isinstance(link, Mapping) else link
    if not (isinstance(href, str) and href):
        return None
    try:
        return urljoin(url, href)
    except ValueError:
        return href  # no address, which is said where it is followed


def _pages_of(first: Mapping[str, Any], folder: Path, query: Mapping[str, Any]) -> PageFolder:
    """The pages kept of a pull that began with this very page: after a change of the database they do not count."""
    beginning = content_hash([first.get("data"), (first.get("meta") or {}).get("data_returned")])
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
