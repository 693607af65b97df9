"""The command `assay replay`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("table")
@click.option("--target", metavar="COLUMN", help="The property to find the best 1 % of.")
@click.option("--minimize", "goal", flag_value="minimize", help="Low values of the target are best. [default]")
@click.option("--maximize", "goal", flag_value="maximize", help="High values of the target are best.")
@click.option("--near", type=float, metavar="X", help="Values of the target near X are best.")
@click.option("--want", "wants", multiple=True, metavar="WISH", help='Such as "0.5 < band_gap < 3.5"; all must hold.')
@click.option(
    "--strategies", metavar="A,B,…", help="Such as campaign,random,potential. [default: all that can be played]"
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=20, show_default=True)
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
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for table, curves and plot.")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def replay(**options: Any) -> None:
    """Play a campaign on a TABLE whose answers are known, by every strategy, and tell what each would have found.

    TABLE is CSV, JSON lines or Parquet (also .gz) with a column of structures and columns of answers, or the name of
    a finished campaign in the ledger. What the potential says of it is kept in the ledger.
    """
    from flows import replay as replaying
    from flows import replay_report as report
    from flows.load import load_campaign, load_cluster
    from flows.progress import Progress
    from materials.errors import InputError
    from materials.records import Target
    from materials.wishes import read_wish

    goal, near, name = options["goal"], options["near"], options["target"]
    if goal and near is not None:
        raise InputError(f"--{goal} and --near: give one of them")
    if name is None and (goal or near is not None):
        raise InputError(f"{'--near' if near is not None else f'--{goal}'} needs --target COLUMN")
    target = None
    if name is not None:
        target = Target(property=name, goal="near" if near is not None else goal or "minimize", value=near)
    request = replaying.Request(
        table=options["table"],
        target=target,
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
    _check_writable(where)
    progress = Progress()
    replayed = replaying.replay(request, progress)
    click.echo(report.as_text(replayed) if options["style"] == "table" else report.as_json(replayed))
    plot = report.write(replayed, where)
    click.echo(f"Plot: {plot}; curves.csv, replay.md and replay.jsonl lie beside it", err=True)


def _check_writable(folder: Path) -> None:
    """Look now whether the folder can be had: after minutes of playing is no time to find out that it cannot."""
    from materials.errors import InputError

    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"--output: {folder}: {there} is a file; name another folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"--output: {folder}: {there} is not yours to write to; name another folder")
