"""Forty kills with -9 at random moments: nothing lost, nothing twice.

    python -m tests.benchmarks.kills
    python -m tests.benchmarks.kills --kills 5 --seed 1
    python -m tests.benchmarks.kills --kills 4 --only "DFT process" "Prefect worker" --at DFT
    python -m tests.benchmarks.kills --kills 3 --only "DFT process" --one-element --gap 3

A campaign of real structures, CHGNet and GPAW (tests/benchmarks/kills.yaml) is run in three ways: from the command line
with workers of its own, with a Dask scheduler and workers of somebody else, and by a worker of a Prefect server. One of
its processes after the other is killed, each at a moment drawn at random; what was killed is started again as a person
would, and when a campaign has ended the next begins with an empty ledger. Checked are

- lost: rows of the ledger that were there before a kill and are not right after it, or not at the end;
- twice: DFT calculations that were started again though none of their processes had been killed or taken back before it
  had a result, structures that were sent to be relaxed again, and results that were recorded a second time;
- what the ledger says at the end, beside that of an undisturbed campaign: the same candidates, relaxations to the last
  bit, DFT energies within 1 meV/atom, choices, statuses, failures and ranks;
- that a flow whose scheduler died ends with that sentence, and that the server shows a run as Crashed within
  90 s when its process or its worker died (140 s if it had not begun).

Ends with 0 if all of it holds.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.peers.campaign_folder import CampaignFolder
from tests.peers.killing import STAGES, Kill, Story
from tests.peers.ledger_rows import rows_of
from tests.peers.prefect_scene import Deployed, server
from tests.peers.scenes import PREFECT_WORKER, VICTIMS, Address, CommandLine, Scene

CAMPAIGN = Path(__file__).with_name("kills.yaml")


def undisturbed(folder: Path, campaign: Path) -> Path:
    """Run a campaign that nobody disturbs; return its ledger."""
    scene, start = CommandLine(CampaignFolder(folder, campaign)), time.monotonic()
    try:
        scene.start()
        while not scene.is_done():
            time.sleep(0.2)
    finally:
        scene.close()
    counts = {table: rows.total() for table, rows in rows_of(scene.place.ledger).items()}
    print(f"An undisturbed campaign took {time.monotonic() - start:.0f} s; rows: {counts}", flush=True)
    return scene.place.ledger


def play(
    wanted: Mapping[str, int], folder: Path, campaign: Path, reference: Path, draw: random.Random, **more: Any
) -> tuple[list[Kill], list[str]]:
    """Kill so many of each kind, in one campaign after the other; return the kills and the faults."""
    left, stories = Counter(wanted), list[Story]()
    with ExitStack() as servers:
        prefect = servers.enter_context(server(folder / "server")) if left[PREFECT_WORKER] else None
        while +left:
            place = CampaignFolder(folder / f"campaign-{len(stories) + 1}", campaign)
            ways: list[Scene] = [CommandLine(place), Address(place), *([Deployed(place, prefect)] if prefect else [])]
            scene = draw.choice([way for way in ways if any(left[victim] for victim in way.victims)])
            story = Story(scene=scene, undisturbed=reference, draw=draw, **more)
            stories.append(story)
            print(f"Campaign {len(stories)}, {type(scene).__name__}; to be killed yet: {dict(+left)}", flush=True)
            try:
                story.run(left)
            except AssertionError as error:
                story.fault(str(error))
                if not story.kills:
                    break
            finally:
                scene.close()
    return [kill for story in stories for kill in story.kills], [fault for story in stories for fault in story.faults]


def table(kills: list[Kill]) -> str:
    """Write all kills as a Markdown table, by victim and stage."""
    lines = ["| killed | at | kills | rows before | of these lost | computed twice |", "|---|---|---:|---:|---:|---:|"]
    for victim in VICTIMS:
        for stage in STAGES:
            some = [kill for kill in kills if (kill.victim, kill.stage) == (victim, stage)]
            if some:
                lines.append(f"| {victim} | {stage} | {_counts(some)} |")
    return "\n".join([*lines, f"| all | | {_counts(kills)} |"])


def _counts(kills: list[Kill]) -> str:
    least, most = (limit((kill.rows for kill in kills), default=0) for limit in (min, max))
    rows = f"{least} to {most}" if least < most else f"{least}"
    return f"{len(kills)} | {rows} | {sum(kill.lost for kill in kills)} | {sum(kill.twice for kill in kills)}"


def main() -> None:
    """Kill, print the table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=VICTIMS, default=VICTIMS)
    parser.add_argument("--at", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--gap", type=float, default=20.0, help="the longest time between two kills, s (default: 20)")
    parser.add_argument("--one-element", action="store_true", help="kill one calculation of DFT only, an element's")
    parser.add_argument("--folder", type=Path, help="a new one, for what is to be looked at afterwards")
    arguments = parser.parse_args()
    wanted = Counter(arguments.only[number % len(arguments.only)] for number in range(arguments.kills))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch)).resolve()
        reference = undisturbed(folder / "undisturbed", CAMPAIGN)
        draw = random.Random(arguments.seed)
        more = {"stages": arguments.at, "gap_s": arguments.gap, "one_element": arguments.one_element}
        kills, faults = play(wanted, folder, CAMPAIGN, reference, draw, **more)
    print(f"\n{table(kills)}\n\n{len(kills)} kills in {(time.monotonic() - start) / 60:.0f} minutes: ", end="")
    if faults:
        sys.exit(f"{len(faults)} faults, the first: {faults[0]}")
    print("nothing lost, nothing twice, each campaign ended as the undisturbed one.")


if __name__ == "__main__":
    main()
