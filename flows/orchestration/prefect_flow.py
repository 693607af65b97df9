"""Prefect flow of a campaign (`flows.discovery:discover`); the sections of a campaign are the fields of its form."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import httpx
from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError, TerminationSignal
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Failed
from pydantic import Field

from flows.campaign.loop import Request, opened
from flows.campaign.loop import discover as run_stages
from flows.config.campaign import DFT, Campaign, Learning, Screening, TargetSection
from flows.config.cluster import Cluster
from flows.config.sources import Source
from flows.config.yaml_file import check
from flows.orchestration.crashes import call_silence_a_crash
from flows.output.progress import Progress
from flows.output.unforeseen import foreseen
from flows.report import report
from flows.report import table as tables
from flows.run.context import Interrupted, Run
from flows.stages.publish import publish
from materials.errors import AssayError, InputError
from materials.plain_text import printable

Result = TypeVar("Result")

FIELDS = Campaign.model_fields
SCHEMA = Campaign.model_json_schema()["properties"]
SHOWN = ("title", "description", "pattern", "minLength", "maxLength", "minItems", "maxItems", "default")
HERE = Cluster()
ROWS = 20  # of the table that ends the log
WATCH_S = 5.0  # between two looks at whether the run is to go on


def _with_an_exception_if_any(record: logging.LogRecord) -> bool:
    """Leave out the line `NoneType: None`, which Prefect logs of a task that ends as Failed and raises nothing."""
    if record.exc_info is not None and record.exc_info[0] is None:
        record.exc_info = None
    return True


logging.getLogger("prefect.task_runs").addFilter(_with_an_exception_if_any)


def _shown(**schema: Any) -> Any:
    # Prefect replaces a parameter's title by its name and its description by the docstring's; only what is added to
    # the JSON schema itself comes through to the form.
    return Field(json_schema_extra=schema)


def _as_in_file(name: str, description: str = "") -> Any:
    """Show a field of the form as the campaign file's own: its title, description, bounds and default."""
    # pydantic leaves out a title that the section's class has as well.
    schema = {key: SCHEMA[name][key] for key in SHOWN if key in SCHEMA[name]}
    return _shown(**{"title": FIELDS[name].title, "description": description} | schema)


@flow(name="discover", flow_run_name="{name}", persist_result=False, validate_parameters=True)
def discover(
    *,
    name: Annotated[str, _as_in_file("name")],
    description: Annotated[str, _as_in_file("description")] = "",
    sources: Annotated[list[Source], _as_in_file("sources")],
    competing: Annotated[list[Source], _as_in_file("competing")] = [],  # noqa: B006  a factory is absent from the form
    hull_leaves_out: Annotated[str, _as_in_file("hull_leaves_out")] = "",
    targets: Annotated[list[TargetSection], _as_in_file("targets")] = [],  # noqa: B006
    screening: Annotated[Screening, _as_in_file("screening", "How candidates are relaxed.")] = FIELDS[
        "screening"
    ].default,
    learning: Annotated[Learning, _as_in_file("learning", "How the next are chosen.")] = FIELDS["learning"].default,
    use_dft: Annotated[bool, _shown(title="Use DFT", description="Off: propose, screen and rank only.")] = True,
    dft: Annotated[DFT, _as_in_file("dft", "How the chosen are validated.")] = FIELDS["dft"].default,
    retry_failed: Annotated[
        bool, _shown(title="Retry what failed", description="On: what failed for good, or was cancelled, once more.")
    ] = False,
    cluster: Annotated[
        Cluster,
        _shown(
            title="Cluster", description="Where things run.", default=HERE.model_dump(mode="json", exclude_none=True)
        ),
    ] = HERE,
) -> State | None:
    """Look for stable materials: propose, screen, choose, validate, rank.

    The ledger is the one that ASSAY_DATABASE_URL names in the worker's environment, files lie in ASSAY_RUN_DIR.
    What was foreseen to go wrong ends the run as Failed, with its sentence; a stop ends it as Cancelled.
    """
    content = {
        "name": name,
        "description": description,
        "sources": sources,
        "competing": competing,
        "hull_leaves_out": hull_leaves_out,
        "screening": screening,
        "targets": targets,
        "learning": learning,
        "dft": dft,
    }
    logger = get_run_logger()
    try:
        request = Request(
            campaign=check(Campaign, content, "parameters"),
            cluster=cluster,
            ledger_url=os.environ.get("ASSAY_DATABASE_URL"),
            folder=Path(os.environ.get("ASSAY_RUN_DIR", "assay-runs")),
            use_dft=use_dft,
            retry_failed=retry_failed,
        )
        with get_client(sync_client=True) as client:
            call_silence_a_crash(client)
        with opened(request, Progress(logger.info)) as run, _watched(run):
            run_stages(run, _Tasks(run))
            logger.info("%s\n%s", _table(run), printable("\n".join(report.closing_lines(run))))
    except Interrupted as stopped:
        if deployment.id is not None and not _is_cancelling(UUID(str(flow_run.id))):
            raise TerminationSignal(signal.SIGTERM) from None  # Prefect's worker ends, or its machine: a crash
        return Cancelled(message=str(stopped))
    except Exception as error:  # noqa: BLE001 - whatever it is, a person is told in a sentence
        return _failed(foreseen(error, Path(os.environ.get("ASSAY_RUN_DIR", "assay-runs"))))
    return None


@contextmanager
def _watched(run: Run) -> Iterator[None]:
    """Stop the run where no signal says so: cancelled with no worker to hear it, or its worker killed with -9."""
    over = threading.Event()
    flow_run_id = UUID(str(flow_run.id))
    parent, from_worker = os.getppid(), deployment.id is not None  # else the parent is somebody's shell

    def alone() -> bool:
        return from_worker and os.getppid() != parent

    for handler in logging.getLogger().handlers:
        # A word into the pipe of a worker that is gone ends the process there and then.
        handler.addFilter(lambda _record: not alone())

    def watch() -> None:
        while not (over.wait(WATCH_S) or run.stop.is_set()):
            with suppress(httpx.HTTPError, ObjectNotFound):  # the server is away, or the run was deleted there
                if alone() or _is_cancelling(flow_run_id):
                    run.stop.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(WATCH_S)


def _is_cancelling(flow_run_id: UUID) -> bool:
    """Ask the server whether somebody cancelled a run.

    Prefect tells its own SIGTERM handler only, which would throw the exception into whatever runs, a write to the
    ledger too.
    """
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
    return state is not None and state.is_cancelling()


def _failed(error: AssayError) -> State:
    """End as Failed with the error's own sentence, where Prefect would write a traceback for what was foreseen."""
    sentence = printable(str(error))  # Prefect shows it as it is, and a database's own words may be in it
    get_run_logger().error("%s", sentence)
    return Failed(message=sentence, data=error)


def _table(run: Run) -> str:
    return tables.as_text(tables.query(run.ledger, run.campaign_id, where=None, sort=None, limit=ROWS))


class _Tasks:
    """Makes a Prefect task of each stage, and shows the report after each publication."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.artifact: UUID | None = None

    def __call__(self, name: str, stage: Callable[..., Result], *arguments: Any) -> Result:
        # The arguments stay out of Prefect's sight: it would walk through every structure to look for futures,
        # and it must never hash one.
        ended: list[AssayError] = []

        @task(name=stage.__name__, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
        def work() -> Result | State:
            try:
                return stage(*arguments)
            except Interrupted as stopped:
                ended.append(stopped)
                return Cancelled(message=str(stopped))
            except Exception as error:  # noqa: BLE001 - whatever it is, a person is told in a sentence
                ended.append(foreseen(error, self.run.folder))
                return _failed(ended[0])

        result = work()
        if ended:
            raise ended[0]  # a state that a task returns becomes its own, and is handed on as its result
        assert not isinstance(result, State)
        if stage is publish:
            self._show()
        return result

    def _show(self) -> None:
        """Keep one Markdown artifact for the campaign: a later round updates it in place, a later run replaces it.

        The same key again would make a new card each time.
        """
        text = report.with_pictures_inside(self.run)
        key = report.artifact_key(self.run.campaign_id)
        with get_client(sync_client=True) as client:
            if self.artifact is not None:
                try:
                    client.update_artifact(self.artifact, ArtifactUpdate(data=text))
                    return
                except ObjectNotFound:
                    pass  # somebody deleted it in the UI; a new one follows
            older = _artifacts(client, key)
            created = create_markdown_artifact(text, key=key, description=self.run.campaign.name)
            assert isinstance(created, UUID)  # not awaited: this flow is no coroutine
            self.artifact = created
            for artifact_id in older:
                client.delete_artifact(artifact_id)


def _artifacts(client: SyncPrefectClient, key: str) -> list[UUID]:
    found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return [artifact.id for artifact in found]


def require_server() -> None:
    """Ask the server that PREFECT_API_URL names for something that it gives to its users only.

    Raises:
        InputError: No server answers there, or it refuses.
    """
    url = PREFECT_API_URL.value()
    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code == 401:
            raise InputError(
                f"PREFECT_API_AUTH_STRING: the Prefect server at {url} wants a USER:PASSWORD, and not what is set;"
                " that of `assay up` is in .prefect/server.env of the folder where it was started"
            ) from None
        trouble = f"{error.response.status_code} {error.response.reason_phrase}; an address ends in /api"
    except httpx.HTTPError as error:
        trouble = str(error)
    else:
        return
    raise InputError(
        f"PREFECT_API_URL: no Prefect server answers at {url} ({trouble});"
        " start one with `assay up`, or unset PREFECT_API_URL to do without"
    )


def run_as_flow(request: Request) -> None:
    """Run a campaign as a flow run on the server that PREFECT_API_URL names.

    Raises:
        InputError: That server cannot be used.
        AssayError: Whatever stopped the campaign; what had ended is in the ledger.
    """
    require_server()
    campaign = request.campaign
    # A URL may hold a password, and parameters are stored: so it goes by the environment.
    if request.ledger_url is not None:
        os.environ["ASSAY_DATABASE_URL"] = request.ledger_url
    os.environ["ASSAY_RUN_DIR"] = str(request.folder)
    state = discover(
        **{name: getattr(campaign, name) for name in FIELDS},
        cluster=request.cluster,
        use_dft=request.use_dft,
        retry_failed=request.retry_failed,
        return_state=True,
    )
    if state.is_cancelled():
        raise Interrupted(state.message or "Stopped.")
    state.result()  # raises what it ended with
