"""Propose candidates: from the sources into the ledger, valid and distinct."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from flows.config.campaign import Campaign
from flows.config.sources import Files, MaterialsProject, Optimade, Prototypes, Source, Substitution
from flows.output.unread import unread_lines
from flows.run.context import Run
from materials.errors import InputError, SourceRefused
from materials.records import READ, Calculation, Candidate, Failure, Role, WrittenCandidate
from materials.store.candidate_spool import CandidateFile
from materials.store.rows import write_candidate


@dataclass(kw_only=True)
class Proposals:
    """What all sources gave.

    Attributes:
        trouble: What is wrong with a candidate, as an error and a message; None if nothing is.
        sane: Candidates that make sense.
        energies: Of phases that a database computed, by the id that it has for them.
        failures: What could not be read.
        insane: What is wrong with the candidates that make no sense.
        refused: Those of them that somebody gave us: they have their row in the table. What an enumeration makes up
            has none.
    """

    trouble: Callable[[Candidate], tuple[str, str] | None]
    sane: CandidateFile
    energies: dict[str, Calculation] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    insane: list[Failure] = field(default_factory=list)
    refused: list[WrittenCandidate] = field(default_factory=list)

    def take(self, candidate: Candidate, *, given: bool) -> None:
        """Keep a candidate, and nothing of it in memory: a built structure takes a kilobyte a site."""
        trouble = self.trouble(candidate)
        if trouble is None:
            self.sane.append(write_candidate(candidate))
            return
        error, message = trouble
        if given and error != "NotFinite":
            self.refused.append(write_candidate(candidate))
        message = _whence(candidate) + message
        self.insane.append(Failure(material_id=candidate.material_id, stage="propose", error=error, message=message))


def check_readable(campaign: Campaign) -> None:
    """Look for one structure that can be read, before anything is begun.

    Raises:
        InputError: The campaign's sources, or its competing phases, are files of which none can be read.
    """
    for key, sources in (("sources", campaign.sources), ("competing", campaign.competing)):
        if not sources or not all(isinstance(source, Files | Substitution) for source in sources):
            continue
        failures = []
        for item in (item for source in sources for item in _read_files(source)):
            if not isinstance(item, Failure):
                break
            failures.append(item)
        else:
            raise InputError(
                f"{key}: nothing could be read: {'; '.join(unread_lines([failure.message for failure in failures]))}"
            )


def propose(run: Run, roles: Collection[Role] = ("candidate", "competing")) -> int:
    """Ask every source of some roles, keep what is sane and distinct; return the number of materials proposed.

    Raises:
        InputError: A source's file or folder is not there, or its key is missing.
        SourceError: A source could not answer.
    """
    with closing(CandidateFile()) as sane:
        found = Proposals(trouble=partial(_trouble, run), sane=sane)
        with run.progress.timed("proposing"):
            sources: dict[Role, list[Source]] = {
                "candidate": run.campaign.sources,
                "competing": run.campaign.competing,
            }
            for role in roles:
                for source in sources[role]:
                    _collect(run, source, role, found)
        return _keep(run, found)


@dataclass(kw_only=True)
class _Kept:
    """What goes to the ledger: noted anew each time that it is gone through.

    Attributes:
        distinct: Of the sane.
        refused: What was given and makes no sense.
        energies: A database's, by the id that it has for their phases.
        counts: Materials of each role.
        stands: A database's phase -> the material that stands for its crystal.
    """

    distinct: Iterable[WrittenCandidate]
    refused: Iterable[WrittenCandidate]
    energies: Container[str]
    counts: dict[str, int] = field(default_factory=dict)
    stands: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[WrittenCandidate]:
        self.counts = {"candidate": 0, "competing": 0}
        for candidate in self.distinct:
            self.counts[candidate.role] += 1
            self.stands.update((p, candidate.material_id) for p in candidate.parents if p in self.energies)
            yield candidate
        yield from self.refused


def _keep(run: Run, found: Proposals) -> int:
    """Merge what is the same crystal, and write all to the ledger."""
    from materials.duplicates.duplicates import Merged

    with run.progress.timed("identity"):
        distinct = Merged(found.sane, check_stop=run.check_stop)
    kept = _Kept(distinct=distinct, refused=found.refused, energies=found.energies)
    failures = [*found.failures, *found.insane]
    with run.progress.timed("ledger"):
        run.ledger.add_candidates(run.campaign_id, kept)
        run.ledger.add_calculations(_named_as_kept(found.energies, kept.stands))
        run.ledger.add_failures(run.campaign_id, failures)
    run.progress.say(
        f"Proposed {kept.counts['candidate']} candidates and {kept.counts['competing']} competing phases"
        f" ({len(found.sane) - len(distinct)} duplicates merged, {len(failures)} left out)"
    )
    return len(distinct)


def _named_as_kept(energies: Mapping[str, Calculation], stands: Mapping[str, str]) -> list[Calculation]:
    """Give an energy to the material that stands for its crystal; of several, the lowest of each crystal."""
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
    given = role == "candidate" and not isinstance(source, Prototypes | Substitution)
    for item in _ask(run, source, role, found):
        run.check_stop()
        if isinstance(item, Failure):
            found.failures.append(replace(item, stage=READ))
        else:
            found.take(item if item.role == role else replace(item, role=role), given=given)


def _ask(run: Run, source: Source, role: Role, found: Proposals) -> Iterable[Candidate | Failure]:
    match source:
        case Prototypes():
            from materials.sources.prototypes import source as prototypes

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
            return _read_files(source)
        case Substitution():
            return _substitute(source)
        case MaterialsProject():
            return _pull_materials_project(run, source, found)
        case Optimade():
            from materials.sources.databases import optimade

            return optimade.pull(
                provider_url=source.provider,
                filter=source.filter,
                max_results=source.max_results,
                snapshot=source.snapshot,
                snapshot_folder=run.folder / "snapshots",
                check_stop=run.check_stop,
            )


def _read_files(source: Source) -> Iterator[Candidate | Failure]:
    from materials.sources.files import source as files

    if isinstance(source, Files):
        return files.read(path=source.path, structure_column=source.structure_column, id_column=source.id_column)
    assert isinstance(source, Substitution)
    return files.read(path=source.path)


def _substitute(source: Substitution) -> Iterator[Candidate | Failure]:
    from materials.sources import substitution

    known = []
    for item in _read_files(source):
        if isinstance(item, Failure):
            yield item
        else:
            known.append((item.parents[0], item.structure))
    yield from substitution.propose(
        known, threshold=source.threshold, elements=source.elements or None, max_candidates=source.max_candidates
    )


def _pull_materials_project(run: Run, source: MaterialsProject, found: Proposals) -> list[Candidate | Failure]:
    from materials.sources.databases import materials_project
    from materials.sources.databases.snapshot import candidate

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
        check_stop=run.check_stop,
    )
    run.progress.say(f"Materials Project {snapshot.database_version}: {len(snapshot.structures)} structures")
    for known in snapshot.hull_entries:
        phase = candidate(
            known.structure, source=snapshot.source, source_version=snapshot.database_version, origin=known.entry_id
        )
        found.take(replace(phase, role="competing"), given=False)
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


def _trouble(run: Run, candidate: Candidate) -> tuple[str, str] | None:
    from materials.crystals import validation

    return validation.check(
        candidate.structure,
        elements=run.potential_identity.elements,
        max_sites=run.campaign.screening.max_sites,
        # Competing phases may well be metals.
        charge_balance=run.campaign.screening.charge_balance and candidate.role == "candidate",
    )


def _whence(candidate: Candidate) -> str:
    parent = candidate.parents[0] if candidate.parents else candidate.source
    return f"{Path(parent).name if os.sep in parent else parent}: "
