"""When a run under Prefect counts as crashed: one killed with -9 says nothing, and would be Running for ever."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# How often a run says that it lives (s; Prefect takes no less than 30), for the environment that it starts in.
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
SILENCE = timedelta(seconds=80)  # two heartbeats are missing, and a busy process was given time for the second
NAME = "assay: silent runs have crashed"


def call_silence_a_crash(client: SyncPrefectClient) -> None:
    """Have the server mark a run as Crashed that is not heard of any more; asked again, it changes nothing."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification

    if client.read_automations_by_name(NAME):
        return
    over = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "Paused")}
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat"} | over,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    )
    silent = f"Not heard of for {SILENCE.seconds} s: killed, or its machine is off. Run again, it goes on."
    crash = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=silent, force=False)
    client.create_automation(AutomationCore(name=NAME, description=__doc__ or "", trigger=trigger, actions=[crash]))
