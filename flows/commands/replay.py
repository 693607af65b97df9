"""`assay replay`: options into a request, and its result printed or written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from materials.records import Goal, Target


@click.command()
@click.argument("table")
@click.option("--target", metavar="COLUMN", help="The property to find the best 1 % of.")
@click.option("--minimize", is_flag=True, help="Low values of the target are best. [default]")
@click.option("--maximize", is_flag=True, help="High values of the target are best.")
@click.option("--near", type=float, metavar="X", help="Values of the target near X are best.")
@click.option("--want", "wants", multiple=True, metavar="WISH", help='Such as "0.5 < band_gap < 3.5"; all must hold.')
@click.option(
    "--strategies", metavar="A,B,…", help="Such as campaign,random,potential. [default: all that can be played]"
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=20, show_default=True, help="Campaigns a strategy.")
@click.option(
    "--batch", type=click.IntRange(1, 10_000), help="Answers asked at a time. [default: the campaign's, else 10]"
)
@click.option("--budget", type=click.IntRange(1, 100_000), default=300, show_default=True, help="Answers in all.")
@click.option(
    "--campaign",
    "campaign_file",
    type=click.Path(path_type=Path),
    help="Its potential, screening, competing phases and learning (but for costs and stops) are meant.",
)
@click.option("--cluster", "cluster_file", type=click.Path(path_type=Path), help="Hardware. [default: this machine]")
@click.option("--relax", is_flag=True, help="Relax the structures; else only their volume, for the label's sake.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for table, curves and plot. [default: replays/TABLE in the run folder]",
)
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def replay(**options: Any) -> None:
    """Play a campaign on a TABLE whose answers are known, by every strategy, and tell what each would have found.

    TABLE is CSV, JSON lines or Parquet (also .gz) with a column of structures and columns of answers, or the name of
    a finished campaign in the ledger. What the potential says of it is kept in the ledger. It helps to find the columns
    decomposition_energy_per_atom, energy_above_hull, formation_energy_per_atom and volume_per_atom, and a band_gap is
    known not to lie below 0; any other is learned from its answers alone. Energies above the hull are learned from the
    decomposition energies where there are both, and rows of one composition count against each other. A column
    level_of_theory tells which corrections the answers have in; the potential's energies are taken with the same.
    """
    from flows.config.load import load_campaign, load_cluster
    from flows.output.places import require_folder
    from flows.output.progress import Progress
    from flows.replay import report
    from flows.replay import run as replaying
    from materials.targets import read_wish

    request = replaying.Request(
        table=options["table"],
        target=_target(options),
        wishes=[read_wish(text) for text in options["wants"]],
        strategies=[part.strip() for part in (options["strategies"] or "").split(",") if part.strip()],
        seeds=options["seeds"],
        batch=options["batch"],
        budget=options["budget"],
        campaign=load_campaign(options["campaign_file"]) if options["campaign_file"] else None,
        cluster=load_cluster(options["cluster_file"]),
        ledger_url=options["ledger"],
        folder=options["folder"],
        relax=options["relax"],
    )
    where = options["output"] or options["folder"] / "replays" / Path(options["table"]).name
    require_folder(where, "--output")
    progress = Progress()
    replayed = replaying.replay(request, progress)
    click.echo(report.as_text(replayed) if options["style"] == "table" else report.as_json(replayed))
    plot = report.write(replayed, where)
    click.echo(f"Plot: {plot}; curves.csv, replay.md and replay.jsonl lie beside it", err=True)


def _target(options: Mapping[str, Any]) -> Target | None:
    """Read what is to be found of a single property; None where the options say nothing of it."""
    from materials.errors import InputError
    from materials.records import Target

    goals: dict[Goal, bool] = {
        "minimize": options["minimize"],
        "maximize": options["maximize"],
        "near": options["near"] is not None,
    }
    given = [goal for goal, asked in goals.items() if asked]
    if len(given) > 1:
        raise InputError(f"{' and '.join(f'--{goal}' for goal in given)}: give one of them")
    near, name = options["near"], options["target"]
    if given and name is None:
        raise InputError(f"--{given[0]} needs --target COLUMN")
    if near is not None and not math.isfinite(near):
        raise InputError(f"--near: {near} is no value to come near to")
    if name is None:
        return None
    return Target(property=name, goal=given[0] if given else "minimize", value=near)
