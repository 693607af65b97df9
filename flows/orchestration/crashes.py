"""Prefect automations that mark silent flow runs as Crashed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# How often a run says that it lives (s; Prefect takes no less than 30), for the environment that it starts in.
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
FLOW = "discover"  # other flows of the server may be silent and well
SILENCE = timedelta(seconds=80)  # two heartbeats are missing, and a busy process was given time for the second
BEGIN = timedelta(seconds=120)  # from a worker's word that it starts a run to the run's own, on a busy machine


def call_silence_a_crash(client: SyncPrefectClient) -> None:
    """Have the server mark a run as Crashed that is not heard of any more; asked again, it changes nothing."""
    again = "killed, or its machine is off. Run again, it goes on."
    # A run that was killed as it began has not had its first heartbeat.
    for name, after, within, silent in (
        ("silent runs", ("Running", "heartbeat"), SILENCE, f"Not heard of for {SILENCE.seconds} s: {again}"),
        ("runs that do not begin", ("Pending",), BEGIN, f"It has not begun: its worker was {again}"),
    ):
        _crash(client, f"assay: {name} of {FLOW} have crashed", after, within, silent)


def _crash(client: SyncPrefectClient, name: str, after: tuple[str, ...], within: timedelta, message: str) -> None:
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification

    if client.read_automations_by_name(name):
        return
    heard = ("heartbeat", "Scheduled", "Running", "Completed", "Failed", "Cancelled", "Crashed", "Paused")
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": FLOW}),
        after={f"prefect.flow-run.{word}" for word in after},
        expect={f"prefect.flow-run.{word}" for word in heard},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )
    crash = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)
    client.create_automation(AutomationCore(name=name, description=__doc__ or "", trigger=trigger, actions=[crash]))
