"""Entry point `flows.discovery:discover` of Prefect deployments that were made before the flow moved."""

from flows.orchestration.prefect_flow import discover as discover
