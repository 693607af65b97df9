"""Command line `assay`. Heavy imports are inside the commands that need them, so that `assay --help` is quick."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from flows.commands.replay import replay
from flows.output import terminal
from materials.errors import AssayError, InputError
from materials.plain_text import printable

if TYPE_CHECKING:
    from materials.store.ledger import Ledger

LEDGER = click.option(
    "--ledger",
    metavar="URL",
    envvar="ASSAY_DATABASE_URL",
    default=None,
    help="SQLite file or PostgreSQL URL. [env ASSAY_DATABASE_URL; default ./assay.db]",
)
WHERE = click.option(
    "--where", metavar="QUERY", help='Such as "energy_above_hull < 0.05 and band_gap > 1 and has Li and not has Cd".'
)
FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="ASSAY_RUN_DIR",
    default="assay-runs",
    show_default=True,
    help="Where calculations, snapshots and reports lie. [env ASSAY_RUN_DIR]",
)
COUNT = click.IntRange(0, 1_000_000_000)  # PostgreSQL's integers, in which a budget is written down, end at 2^31
OUTPUT = "standard output"  # as a person is told of it
CAMPAIGN = click.argument("campaign", required=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="assay", message="assay %(version)s")
def assay() -> None:
    """Find new, stable materials: propose crystals, screen them with a potential, spend DFT where it counts.

    Exit codes: 0 done, 1 ran but failed, 2 bad input, 130 stopped by Ctrl-C (the same command goes on from there).
    """


@assay.command()
@click.argument("campaign_file", type=click.Path(path_type=Path))
@click.option("--cluster", "cluster_file", type=click.Path(path_type=Path), help="Hardware. [default: this machine]")
@click.option("--budget", type=COUNT, help="Candidate validations in all, in place of the file's.")
@click.option("--no-dft", is_flag=True, help="Propose, screen and rank; validate nothing.")
@click.option(
    "--retry",
    type=click.Choice(["failed"]),
    help="Once more what failed for good, or was cancelled. What was ended from outside always is tried again.",
)
@FOLDER
@click.option(
    "--profile", type=click.Path(path_type=Path, dir_okay=False), help="Write a cProfile of this process here."
)
@LEDGER
def run(
    campaign_file: Path,
    cluster_file: Path | None,
    budget: int | None,
    no_dft: bool,
    retry: str | None,
    folder: Path,
    profile: Path | None,
    ledger: str | None,
) -> None:
    """Run a campaign, or go on with it: what the ledger knows is not computed again."""
    from flows.campaign.loop import Request
    from flows.commands.run import run_request
    from flows.config.load import load_campaign, load_cluster
    from flows.output.places import require_file
    from flows.output.unforeseen import writing_to

    if profile is not None:
        require_file(profile, "--profile")
    request = Request(
        campaign=load_campaign(campaign_file, budget=budget),
        cluster=load_cluster(cluster_file),
        ledger_url=ledger,
        folder=folder,
        use_dft=not no_dft,
        retry_failed=retry == "failed",
    )
    if profile is None:
        run_request(request)
        return
    import cProfile

    with cProfile.Profile() as profiler:
        run_request(request)
    with writing_to(profile):
        profiler.dump_stats(profile)
    click.echo(f"Profile: {profile} (python -m pstats {profile})", err=True)


@assay.command()
@click.option(
    "--campaigns",
    type=click.Path(path_type=Path),
    default="configs",
    show_default=True,
    help="Folder of campaign files, a deployment each.",
)
@click.option("--cluster", "cluster_file", type=click.Path(path_type=Path), help="Hardware. [default: this machine]")
@click.option("--port", type=click.IntRange(1, 65535), default=4200, show_default=True, help="Of the UI, on loopback.")
@FOLDER
@LEDGER
def up(campaigns: Path, cluster_file: Path | None, port: int, folder: Path, ledger: str | None) -> None:
    """Start a Prefect server with its UI, a deployment for each campaign, and a worker; Ctrl-C ends them.

    The server wants a log-in: a link shows it here. With PREFECT_API_URL set, that server is used. Prefect's files lie
    in ./.prefect, or where PREFECT_HOME says.
    """
    from flows.config.load import load_cluster
    from flows.orchestration.server import Place, up

    place = Place(campaigns=campaigns, cluster=load_cluster(cluster_file), port=port, ledger_url=ledger, folder=folder)
    up(place, lambda line: terminal.say(printable(line), sys.stdout))


@assay.command()
@CAMPAIGN
@WHERE
@click.option(
    "--sort", metavar="COLUMN", help='Such as score, "-band_gap" or "energy_above_hull desc". [default: rank]'
)
@click.option("--limit", type=COUNT, default=20, show_default=True, help="Most rows; 0: all.")
@click.option("--columns", metavar="A,B,…", help="Only these columns; 'all' for every one. [default: the main ones]")
@click.option(
    "--format", "style", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here and not to the screen.")
@LEDGER
def table(
    campaign: str | None,
    where: str | None,
    sort: str | None,
    limit: int,
    columns: str | None,
    style: str,
    output: Path | None,
    ledger: str | None,
) -> None:
    """Show the ranked candidates of a campaign (the latest, if none is named)."""
    from flows.output.unforeseen import writing_to
    from flows.report import table as tables

    with _open(ledger) as opened:
        rows = tables.query(opened, campaign, where=where, sort=sort, limit=limit or None, columns=columns, style=style)
    with writing_to(output or OUTPUT):
        tables.write(rows, style, output)


@assay.command()
@click.argument("material_id")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@LEDGER
def show(material_id: str, style: Literal["text", "json"], ledger: str | None) -> None:
    """Show every record behind one row: its origin, calculations, predictions, why it was chosen, what failed.

    MATERIAL_ID may be shortened while it stays unique, or be a source's own id, such as mp-1265.
    """
    with _open(ledger) as opened:
        _print(opened.explain(material_id, style))


@assay.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--format", "style", type=click.Choice(["cif", "poscar", "extxyz"]), default="cif", show_default=True)
@click.option("--campaign", help="[default: the latest]")
@WHERE
@click.option("--limit", type=COUNT, default=0, help="Most structures; 0: all.", show_default=True)
@LEDGER
def export(folder: Path, style: str, campaign: str | None, where: str | None, limit: int, ledger: str | None) -> None:
    """Write the best known structure of each candidate to DIR."""
    from flows.commands import export as exporting
    from flows.output.unforeseen import writing_to

    with _open(ledger) as opened, writing_to(folder):
        written = exporting.export(opened, folder, style, campaign=campaign, where=where, limit=limit or None)
    _print(f"{written} structures in {folder}")


@assay.command()
@CAMPAIGN
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@LEDGER
def status(campaign: str | None, style: str, ledger: str | None) -> None:
    """Show the campaigns: what is done, what is missing, what failed."""
    from flows.commands import status as state

    with _open(ledger) as opened:
        _print(printable(state.status(opened, campaign, style)))


@assay.command()
@click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path),
    help="Also start one worker and one DFT job as this file says, look around there, and end them.",
)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", show_default=True)
@FOLDER
@LEDGER
def doctor(cluster_file: Path | None, style: str, folder: Path, ledger: str | None) -> None:
    """Check what a campaign needs: potentials, DFT codes, database, Prefect, GPU, shadowed packages."""
    from flows.commands import doctor as checks
    from flows.config.load import load_cluster

    cluster = None if cluster_file is None else load_cluster(cluster_file)
    results = checks.examine(ledger)
    if cluster is not None:
        from flows.commands.doctor_cluster import examine_cluster

        results += examine_cluster(cluster, folder=folder, say=terminal.say)
    _print(printable(checks.written(results, style)))
    if any(check.needed and not check.ok for check in results):
        sys.exit(1)


assay.add_command(LEDGER(FOLDER(replay)))


@assay.group()
def db() -> None:
    """Look after the ledger's database."""


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@LEDGER
def upgrade(yes: bool, ledger: str | None) -> None:
    """Bring a ledger that an older Assay wrote to this version: all of it, or nothing.

    An SQLite file is copied first. `assay run` does the same to an SQLite file by itself.
    """
    from materials.store.migrations.upgrade import due, upgrade

    planned = due(ledger)
    if planned is None:
        click.echo("Nothing to do: the ledger is of this version, or there is none yet.")
        return
    before = f"A copy goes to {planned.backup} first." if planned.backup else "Make a backup first (pg_dump)."
    click.echo(f"{planned.url}: schema version {planned.found} becomes {planned.wanted}. {before}")
    click.echo("No campaign of the older Assay may run meanwhile.")
    if not yes and not click.confirm("Go on?"):
        raise click.Abort
    done = upgrade(ledger)
    for note in done.notes if done else ():
        click.echo(f"{note}.")
    click.echo("Done." if done is None or done.backup is None else f"Done; as it was: {done.backup}")


@assay.command()
@click.option("--cluster", "for_cluster", is_flag=True, help="That of a cluster file.")
def schema(for_cluster: bool) -> None:
    """Print the JSON schema of a campaign file."""
    from flows.config.load import campaign_schema, cluster_schema

    _print(cluster_schema() if for_cluster else campaign_schema(), nl=False)


def _print(text: str, *, nl: bool = True) -> None:
    from flows.output.unforeseen import writing_to

    with writing_to(OUTPUT):
        click.echo(text, nl=nl)


def _open(url: str | None) -> Ledger:
    from materials.store.ledger import Ledger

    return Ledger.open(url, must_exist=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; an error is one sentence and an exit code, whatever it is."""
    terminal.make_whole()
    try:
        _require_place()
        _require_text(sys.argv[1:] if arguments is None else arguments)
        code: Any = assay.main(args=arguments, prog_name="assay", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        with suppress(OSError):  # nobody is there to read it
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        terminal.say("assay: stopped")
        sys.exit(130)
    except AssayError as error:
        _end(error)
    except BrokenPipeError:
        terminal.let_go()  # `assay table | head`: the reader has seen enough
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - nobody foresaw it, and a person is told in a sentence
        from flows.output.unforeseen import foreseen

        _end(foreseen(error))
    sys.exit(code if isinstance(code, int) else 0)


def _end(error: AssayError) -> NoReturn:
    terminal.say(f"assay: {printable(str(error))}")
    try:
        sys.stdout.flush()
    except OSError:  # it is full, or gone: what is left in its buffer would be told as an error at exit
        terminal.let_go()
    sys.exit(error.exit_code)


def _require_place() -> None:
    """Refuse to begin in a folder that was removed: paths, Prefect's too, are read from there, some after hours."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the folder you are in is gone, or cannot be read ({error.strerror}): go to one that is there (cd)"
        ) from None


def _require_text(arguments: list[str]) -> None:
    """Refuse what is no text: it would end a campaign where it is first written down."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("ASSAY_")}
    for name, value in (*(("an argument", argument) for argument in arguments), *ours.items()):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} is no UTF-8: {value!r}; rename the file, or write it in UTF-8") from None
