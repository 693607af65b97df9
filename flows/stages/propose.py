"""Sources -> sane, distinct candidates in the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.context import Run
from flows.sources import Files, MaterialsProject, Optimade, Prototypes, Source, Substitution
from materials.errors import SourceRefused
from materials.records import Calculation, Candidate, Failure, Role


@dataclass(kw_only=True)
class Proposals:
    """What all sources gave."""

    candidates: list[Candidate] = field(default_factory=list)
    # Of phases that a database computed, by the id that it has for them.
    energies: dict[str, Calculation] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    # What somebody gave us and makes no sense: it has its row in the table. What an enumeration makes up has none.
    given: set[str] = field(default_factory=set)
    refused: list[Candidate] = field(default_factory=list)


def propose(run: Run) -> int:
    """Ask every source, keep what is sane and distinct; return the number of materials proposed.

    Raises:
        InputError: A source's file or folder is not there, or its key is missing.
        SourceError: A source could not answer.
    """
    from materials.identity import merge

    with run.progress.timed("proposing"):
        found = Proposals()
        for role, sources in (("candidate", run.campaign.sources), ("competing", run.campaign.competing)):
            for source in sources:
                run.check_stop()
                _collect(run, source, role, found)  # type: ignore[arg-type]
        sane = list(_sane(run, found))
    with run.progress.timed("identity"):
        distinct = merge(sane)
    with run.progress.timed("ledger"):
        run.ledger.add_candidates(run.campaign_id, [*distinct, *found.refused])
        run.ledger.add_calculations(_named_as_kept(found.energies, distinct))
        run.ledger.add_failures(run.campaign_id, found.failures)
    competing = sum(candidate.role == "competing" for candidate in distinct)
    run.progress.say(
        f"Proposed {len(distinct) - competing} candidates and {competing} competing phases"
        f" ({len(sane) - len(distinct)} duplicates merged, {len(found.failures)} left out)"
    )
    return len(distinct)


def _named_as_kept(energies: Mapping[str, Calculation], kept: Sequence[Candidate]) -> list[Calculation]:
    """Give an energy to the material that stands for its crystal; of several, the lowest of each crystal."""
    stands = {parent: candidate.material_id for candidate in kept for parent in candidate.parents}
    found: dict[str, Calculation] = {}
    for origin, calculation in energies.items():
        material_id = stands.get(origin, calculation.material_id)
        held = found.get(material_id)
        if held is None or _per_atom(calculation) < _per_atom(held):
            found[material_id] = replace(calculation, material_id=material_id)
    return list(found.values())


def _per_atom(calculation: Calculation) -> float:
    assert calculation.energy is not None
    assert calculation.structure is not None
    return calculation.energy / len(calculation.structure)


def _collect(run: Run, source: Source, role: Role, found: Proposals) -> None:
    for item in _ask(run, source, role, found):
        if isinstance(item, Failure):
            found.failures.append(item)
        else:
            found.candidates.append(item if item.role == role else replace(item, role=role))
            if role == "candidate" and not isinstance(source, Prototypes | Substitution):
                found.given.add(item.material_id)


def _ask(run: Run, source: Source, role: Role, found: Proposals) -> Iterable[Candidate | Failure]:
    match source:
        case Prototypes():
            from materials.sources import prototypes

            return prototypes.propose(
                roles=source.roles,
                prototypes=source.prototypes,
                charges=source.charges,
                n_elements=source.n_elements or None,
                decorate=source.decorate,
                charge_neutral=source.charge_neutral,
                volume=source.volume,
                max_sites=source.max_sites,
                role=role,
            )
        case Files():
            from materials.sources import files

            return files.read(path=source.path, structure_column=source.structure_column, id_column=source.id_column)
        case Substitution():
            return _substitute(source)
        case MaterialsProject():
            return _pull_materials_project(run, source, found)
        case Optimade():
            from materials.sources import optimade

            return optimade.pull(
                provider_url=source.provider,
                filter=source.filter,
                max_results=source.max_results,
                snapshot=source.snapshot,
                snapshot_folder=run.folder / "snapshots",
            )


def _substitute(source: Substitution) -> Iterator[Candidate | Failure]:
    from materials.sources import files, substitution

    known = []
    for item in files.read(path=source.path):
        if isinstance(item, Failure):
            yield item
        else:
            known.append((item.parents[0], item.structure))
    yield from substitution.propose(
        known, threshold=source.threshold, elements=source.elements or None, max_candidates=source.max_candidates
    )


def _pull_materials_project(run: Run, source: MaterialsProject, found: Proposals) -> list[Candidate | Failure]:
    from materials.sources import materials_project
    from materials.sources.snapshot import candidate

    snapshot = materials_project.pull(
        key=materials_project_key(),
        endpoint=os.environ.get("MP_API_ENDPOINT"),
        snapshot_folder=run.folder / "snapshots",
        snapshot=source.snapshot,
        hull=source.hull,
        is_stable=source.is_stable,
        theoretical=source.theoretical,
        include_gnome=source.include_gnome,
        chemsys=source.chemsys,
        elements=source.elements,
        exclude_elements=source.exclude_elements,
        formula=source.formula,
        material_ids=source.material_ids,
        num_sites=source.num_sites,
        num_elements=source.num_elements,
        energy_above_hull=source.energy_above_hull,
        band_gap=source.band_gap,
    )
    run.progress.say(f"Materials Project {snapshot.database_version}: {len(snapshot.structures)} structures")
    competing: list[Candidate | Failure] = []
    for known in snapshot.hull_entries:
        phase = candidate(
            known.structure, source=snapshot.source, source_version=snapshot.database_version, origin=known.entry_id
        )
        competing.append(replace(phase, role="competing"))
        found.energies[known.entry_id] = Calculation(
            material_id=phase.material_id,
            method=known.method,
            fidelity="dft",
            level_of_theory=known.level_of_theory,
            settings_hash=snapshot.database_version,
            status="converged",
            structure=known.structure,
            energy=known.energy,
        )
    found.candidates.extend(phase for phase in competing if isinstance(phase, Candidate))
    return [*snapshot.candidates(), *snapshot.failures]


def materials_project_key() -> str | None:
    """Find the key in MP_API_KEY, or in the Prefect Secret block that ASSAY_MP_API_KEY_BLOCK names."""
    if key := os.environ.get("MP_API_KEY"):
        return key
    block = os.environ.get("ASSAY_MP_API_KEY_BLOCK")
    if not block:
        return None
    from prefect.blocks.system import Secret

    try:
        value = Secret.load(block).get()  # type: ignore[union-attr]
    except ValueError as error:
        raise SourceRefused(
            f"ASSAY_MP_API_KEY_BLOCK names the Prefect secret {block!r}, which cannot be read: {error}"
        ) from None
    return str(value)


def _sane(run: Run, found: Proposals) -> Iterator[Candidate]:
    from materials import sanity

    covered = run.potential_identity.elements
    for candidate in found.candidates:
        trouble = sanity.check(
            candidate.structure,
            elements=covered,
            max_sites=run.campaign.screening.max_sites,
            # Competing phases may well be metals.
            charge_balance=run.campaign.screening.charge_balance and candidate.role == "candidate",
        )
        if trouble is None:
            yield candidate
        else:
            error, message = trouble
            if candidate.material_id in found.given and candidate.role == "candidate" and error != "NotFinite":
                found.refused.append(candidate)
            found.failures.append(
                Failure(
                    material_id=candidate.material_id,
                    stage="propose",
                    error=error,
                    message=_whence(candidate) + message,
                )
            )


def _whence(candidate: Candidate) -> str:
    parent = candidate.parents[0] if candidate.parents else candidate.source
    return f"{Path(parent).name if os.sep in parent else parent}: "
