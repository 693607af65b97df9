"""Where Prefect finds the flow of deployments that were made before it moved: `flows.discovery:discover`."""

from flows.orchestration.prefect_flow import discover as discover
