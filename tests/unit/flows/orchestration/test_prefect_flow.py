"""The Prefect flow's form, the deployment beside it, and the report as an artifact."""

import base64
import inspect
import logging
import multiprocessing.spawn
import re
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flows.cluster.workers import main_hidden
from flows.config.campaign import Campaign
from flows.config.cluster import Queue
from flows.report import report

SECRET = re.compile(r"key|token|password|secret|credential|url", re.I)


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    """What Prefect's UI draws the form from."""
    from flows.orchestration.prefect_flow import discover

    shown: dict[str, Any] = discover.parameters.model_dump()
    return shown


def test_the_form_has_every_section_of_a_campaign(form: dict[str, Any]) -> None:
    assert set(form["properties"]) == set(Campaign.model_fields) | {"cluster", "use_dft", "retry_failed"}
    assert set(form["required"]) == {"name", "sources"}


def test_what_may_stay_empty_is_a_field_and_a_kind_is_a_select(form: dict[str, Any]) -> None:
    assert form["definitions"]["TargetSection"]["properties"]["near"]["type"] == "number"
    assert form["definitions"]["Files"]["properties"]["kind"]["enum"] == ["files"]
    assert None not in _leaves(form)


def test_a_sections_own_fields_come_first_in_any_database(form: dict[str, Any]) -> None:
    fields = form["definitions"]["Workers"]["properties"]
    order = sorted(fields, key=lambda name: fields[name]["position"])
    assert order[0] == "kind"
    assert order[-1] in Queue.model_fields


def _leaves(content: Any) -> list[Any]:
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else None
    return [content] if parts is None else [leaf for part in parts for leaf in _leaves(part)]


def test_each_field_explains_itself(form: dict[str, Any]) -> None:
    file = Campaign.model_json_schema()["properties"]

    def shown(field: dict[str, Any]) -> dict[str, Any]:
        # Where a section's class says the same, pydantic leaves it there.
        return form["definitions"].get(field.get("$ref", "").rpartition("/")[2], {}) | field

    for name, field in form["properties"].items():
        assert shown(field)["description"], name
        if name in file:
            assert shown(field)["title"] == Campaign.model_fields[name].title
            for bound in ("pattern", "maxLength", "minItems", "default"):
                if bound in file[name]:
                    assert field[bound] == file[name][bound]
    for name, section in form["definitions"].items():
        for key, field in section["properties"].items():
            assert shown(field)["title"], (name, key)


def test_elements_and_potentials_are_chosen_from_lists(form: dict[str, Any]) -> None:
    sections = form["definitions"]
    assert {"chgnet", "matgl", "ase"} <= set(sections["Potential"]["properties"]["kind"]["enum"])
    roles = sections["Prototypes"]["properties"]["roles"]["additionalProperties"]
    assert {"H", "Xe", "U"} <= set(roles["items"]["enum"])
    fmax = sections["Screening"]["properties"]["fmax"]
    assert (fmax["exclusiveMinimum"], fmax["maximum"]) == (0, 1)
    assert "eV/Å" in fmax["title"]


def test_no_secret_can_be_a_parameter(form: dict[str, Any]) -> None:
    # A provider's base URL and a database's formulas are no secrets; a key, a password or our ledger's URL would be.
    names = {*form["properties"], *(key for section in form["definitions"].values() for key in section["properties"])}
    assert {name for name in names if SECRET.search(name)} == set()


def test_the_deployment_holds_the_quickstart(root: Path) -> None:
    from flows.orchestration.prefect_flow import discover

    [deployment] = yaml.safe_load((root / "deploy/prefect.yaml").read_text())["deployments"]
    assert deployment["parameters"] == yaml.safe_load((root / "configs/quickstart.yaml").read_text())
    assert set(deployment["parameters"]) <= set(inspect.signature(discover.fn).parameters)
    module, _, function = deployment["entrypoint"].partition(":")
    assert getattr(import_module(module), function) is discover


@given(st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,59}\Z"), st.from_regex(r"\A[0-9a-f]{8}\Z"))
def test_every_campaign_has_an_artifact_key_that_prefect_takes(name: str, digest: str) -> None:
    from prefect.client.schemas.actions import ArtifactCreate

    key = report.artifact_key(f"{name}-{digest}")
    assert ArtifactCreate(key=key).key == key


def test_pictures_travel_inside_the_artifact(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(folder=tmp_path, campaign_id="made-12345678")
    report.folder(run).mkdir(parents=True)
    pictures = {"overview.png": b"\x89PNG one", "parity.png": b"\x89PNG two"}
    for name, content in pictures.items():
        (report.folder(run) / name).write_bytes(content)
    links = "\n".join(f"![plot]({name})" for name in pictures)
    (report.folder(run) / "summary.md").write_text(f"# made\n\n{links}\n\n[table](ranked.csv)\n")
    text = report.with_pictures_inside(run)
    inside = re.findall(r"!\[plot\]\(data:image/png;base64,([^)]+)\)", text)
    assert [base64.b64decode(data) for data in inside] == list(pictures.values())
    assert str(tmp_path) in text  # where the rest lies


def test_new_workers_do_not_import_the_program_that_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    program = sys.modules["__main__"]  # that of a process of pytest-xdist has no file
    monkeypatch.setattr(program, "__file__", __file__, raising=False)
    monkeypatch.setattr(program, "__spec__", None)

    def told() -> set[str]:
        return {key for key in multiprocessing.spawn.get_preparation_data("worker") if key.startswith("init_main")}

    assert told()
    with main_hidden():
        assert told() == set()
    assert told()


def test_what_a_provider_says_gives_no_orders_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.orchestration import prefect_flow
    from materials.errors import AssayError

    said: list[str] = []
    logger = SimpleNamespace(error=lambda words, *values: said.append(words % values))
    monkeypatch.setattr(prefect_flow, "get_run_logger", lambda: logger)
    state = prefect_flow._failed(AssayError("mp: \x1b[2Jit went \x9b31m\nand that"))
    assert said == [state.message] == ["mp: \ufffd[2Jit went \ufffd31m\nand that"]


def test_a_task_that_failed_without_an_exception_logs_none(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.orchestration import prefect_flow  # noqa: F401 - its import is what is tested

    logger = logging.getLogger("prefect.task_runs")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])  # Prefect's own would look for a server
    monkeypatch.setattr(logger, "propagate", False)
    logger.error("it failed", exc_info=True)
    try:
        raise ValueError("kept")
    except ValueError:
        logger.error("it broke", exc_info=True)
    assert "it failed" in caplog.text
    assert "NoneType: None" not in caplog.text
    assert "ValueError: kept" in caplog.text
