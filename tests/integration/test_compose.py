"""deploy/compose.yaml and deploy/Containerfile: read, and each service run as a process, for tests have no engine."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from typing import Any

import psutil
import pytest
import requests
import sqlalchemy as sa
import yaml
from ase.build import bulk
from ase.io import write

from flows.cluster.settings import SETTINGS
from flows.config.campaign import Campaign
from flows.config.load import load_cluster
from tests.peers import compose
from tests.peers.compose import ROOT, Stack
from tests.peers.postgresql import binaries

TEXT = compose.FILE.read_text()
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
# Letters that would break a URL, a shell and a YAML file, each in its way.
PASSWORD = "p@ss/w:rd%x'\"$#"
AUTH = "somebody:s3cr3t:w0rd-of-prefect"
SECRETS = {"POSTGRES_PASSWORD": PASSWORD, "PREFECT_AUTH": AUTH}


def test_a_secret_that_is_not_set_is_said_and_none_stands_in_the_file() -> None:
    for missing in SECRETS:
        with pytest.raises(KeyError, match=rf"{missing}: set it .*environment or in deploy/\.env"):
            compose.services({name: value for name, value in SECRETS.items() if name != missing})
    named = re.findall(r"^\s*(\w*(?:PASSWORD|AUTH_STRING|API_KEY)\w*):\s*(.+)$", TEXT, re.MULTILINE)
    assert named
    assert all(value.startswith("${") and ":-" not in value.replace(":-}", "") for _, value in named), named
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in ignored


def test_each_service_says_how_it_is_and_comes_back() -> None:
    for name, service in compose.services(SECRETS).items():
        if name == "deploy":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert {how["condition"] for how in service.get("depends_on", {}).values()} <= {
            "service_healthy",
            "service_completed_successfully",
        }


def test_nothing_but_the_ui_is_published_and_that_on_loopback() -> None:
    found = compose.services(SECRETS)
    assert {name: service["ports"] for name, service in found.items() if "ports" in service} == {
        "prefect-server": ["127.0.0.1:4200:4200"]
    }
    networks = yaml.safe_load(TEXT)["networks"]
    assert networks["dask"]["internal"]
    assert networks["database"]["internal"]
    on = {network: {name for name, service in found.items() if network in service["networks"]} for network in networks}
    assert on["dask"] == {"dask-scheduler", "dask-worker", "assay-worker"}
    assert on["database"] == {"postgres", "prefect-server", "assay-worker"}


def test_dask_workers_are_told_no_secret_and_what_local_ones_are() -> None:
    found = compose.services(SECRETS)
    for name in ("dask-scheduler", "dask-worker"):
        environment = found[name]["environment"]
        assert not any(secret in str(environment) for secret in SECRETS.values())
        assert not [key for key in environment if key.startswith(("PREFECT_", "ASSAY_", "PG", "MP_"))]
        spawned = SETTINGS["distributed.nanny.pre-spawn-environ"]
        assert isinstance(spawned, dict)
        assert spawned.items() <= environment.items()
        for key, value in SETTINGS.items():
            if not key.startswith(("distributed.nanny.", "distributed.deploy.")):  # those are of clusters that we start
                variable = "DASK_" + key.upper().replace(".", "__").replace("-", "_")
                assert environment[variable] == str(value), variable


def test_the_cluster_files_are_of_its_workers() -> None:
    for name, device in (("compose-cluster.yaml", "cpu"), ("compose-cluster-gpu.yaml", "cuda")):
        workers = load_cluster(compose.FILE.with_name(name)).workers
        assert (workers.kind, workers.address, workers.device) == ("address", "tcp://dask-scheduler:8786", device)
    assert "compose-cluster-gpu.yaml:/cluster.yaml" in compose.FILE.with_name("compose.gpu.yaml").read_text()


def test_the_image_installs_the_packages_of_the_set_up_script() -> None:
    script = (ROOT / "deploy" / "setup").read_text()
    [wanted] = re.findall(r"^packages=\((.+)\)$", script, re.MULTILINE)
    [installed] = re.findall(r"apt-get install (.+?) \\\n && rm", CONTAINERFILE, re.DOTALL)
    assert [word for word in installed.replace("\\\n", " ").split() if not word.startswith("-")] == wanted.split()


def test_what_the_image_copies_is_there_and_let_in() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignore[0] == "*"
    for line in re.findall(r"^COPY (.+)$", CONTAINERFILE, re.MULTILINE):
        for source in shlex.split(line)[:-1]:
            assert (ROOT / source).exists(), source
            last = [rule for rule in ignore if fnmatch(source, rule.lstrip("!")) or source == rule.lstrip("!")][-1]
            assert last.startswith("!"), source
    # The user of the image is nobody's root, and it takes no secret along.
    assert re.search(r"^USER assay$", CONTAINERFILE, re.MULTILINE)
    assert not re.search(r"PASSWORD|API_KEY|AUTH|\.env|\.git\b", CONTAINERFILE.replace(".dockerignore", ""))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`docker compose up`, with tests' own packages for the workers to import."""
    if binaries() is None:
        pytest.skip("no PostgreSQL here")
    with compose.running(tmp_path_factory.mktemp("compose"), SECRETS, {"PYTHONPATH": str(ROOT)}) as stack:
        yield stack


class Api:
    """What a browser asks of the server."""

    def __init__(self, stack: Stack, auth: str = AUTH) -> None:
        self.url = f"http://127.0.0.1:{stack.port['4200']}/api"
        user, password = auth.split(":", 1)
        self.session = requests.Session()
        self.session.auth = (user, password)

    def get(self, path: str) -> Any:
        return self._answer(self.session.get(self.url + path, timeout=60))

    def post(self, path: str, content: Any) -> Any:
        return self._answer(self.session.post(self.url + path, json=content, timeout=60))

    def wait_for_end(self, flow_run_id: str, stack: Stack) -> dict[str, Any]:
        """Wait until a flow run has ended; return its state."""
        until = time.monotonic() + 240
        while True:
            state: dict[str, Any] = self.get(f"/flow_runs/{flow_run_id}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return state
            assert time.monotonic() < until, stack.told("assay-worker")
            time.sleep(0.5)

    def _answer(self, response: requests.Response) -> Any:
        assert response.ok, response.text[:2000]
        return response.json()


@pytest.mark.postgresql
@pytest.mark.prefect
@pytest.mark.slow
class TestRunning:
    """One of each service, as the file says."""

    def test_each_is_healthy_and_a_dead_one_is_not(self, stack: Stack) -> None:
        for name, service in stack.services.items():
            if "healthcheck" in service:
                assert stack.healthy(name), stack.told(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stack, "port", dict.fromkeys(stack.port, "9"))  # nothing listens on the discard port
            assert not [
                name for name, service in stack.services.items() if "healthcheck" in service and stack.healthy(name)
            ]

    def test_the_server_asks_who_you_are(self, stack: Stack) -> None:
        api = Api(stack)
        for auth in (None, ("somebody", "wrong")):
            assert requests.post(api.url + "/deployments/count", json={}, auth=auth, timeout=60).status_code == 401
        assert api.post("/deployments/count", {}) >= 1
        settings = requests.get(api.url.removesuffix("/api") + "/ui-settings", timeout=60).json()
        assert settings["auth"] == "BASIC"
        assert settings["api_url"] == "/api"
        assert settings["available_uis"]

    def test_a_campaign_runs_and_its_rows_are_in_postgresql(self, stack: Stack) -> None:
        api = Api(stack)
        write(stack.folder / "data" / "few.extxyz", [bulk(metal, "fcc", a=3.7) for metal in ("Cu", "Ag", "Al")])
        content = {
            "name": "composed",
            "sources": [{"kind": "files", "path": str(stack.folder / "data" / "few.extxyz")}],
            "screening": {
                "potential": {"kind": "ase", "model": "tests.peers.calculators:Balls", "level_of_theory": "toy"}
            },
        }
        parameters = Campaign.model_validate(content).model_dump(mode="json", exclude_none=True) | {"use_dft": False}
        deployment = api.get("/deployments/name/discover/quickstart")
        # Where things run stands in the deployment, and when a run counts as crashed in the server.
        workers = deployment["parameters"]["cluster"]["workers"]
        assert (workers["kind"], workers["address"]) == ("address", stack.here("tcp://dask-scheduler:8786"))
        assert deployment["parameters"]["name"] == "quickstart"
        assert api.post("/automations/count", {}) == 2  # of silent runs, and of those that do not begin
        run = api.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
        assert api.wait_for_end(run["id"], stack)["type"] == "COMPLETED", stack.told("assay-worker")
        # The worker's own folder holds no ledger: the rows are in PostgreSQL.
        assert not list((stack.folder / "data").glob("*.db"))
        assert list((stack.folder / "data" / "assay-runs" / "reports").iterdir())
        url = sa.URL.create("postgresql+psycopg", "assay", PASSWORD, "127.0.0.1", int(stack.port["5432"]), "assay")
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT formula, status FROM ranked_candidates ORDER BY formula")).all()
            [(encoding,)] = connection.execute(sa.text("SHOW server_encoding")).all()
        engine.dispose()
        assert [tuple(row) for row in rows] == [(metal, "screened") for metal in ("Ag", "Al", "Cu")]
        assert encoding == "UTF8"

    def test_every_socket_is_on_loopback_and_no_secret_was_said(self, stack: Stack) -> None:
        found = {
            name: listening(psutil.Process(process.pid))
            for name, process in stack.processes.items()
            if process.poll() is None
        }
        assert found.keys() == stack.services.keys() - {"deploy"}
        assert all(found.values())
        assert {host for sockets in found.values() for host, _ in sockets} == {"127.0.0.1"}, found
        for name in stack.processes:
            assert not any(secret in stack.told(name) for secret in (PASSWORD, AUTH, AUTH.split(":", 1)[1])), name


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """Where a process and its children take connections."""
    found = set()
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it may have ended meanwhile
            found |= {c.laddr for c in one.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return {(address.ip, address.port) for address in found}
