"""What a scientist does in the Prefect UI, in a real Chromium: fill the form, watch, read the report, cancel."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.orchestration.prefect_server import LOG_IN
from tests.integration.conftest import SMALL
from tests.integration.test_campaign import ask
from tests.integration.test_up import Up, deployed, members, processes, ready
from tests.peers.waiting import soon

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.prefect, pytest.mark.slow, pytest.mark.long]
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`assay up` with the quickstart's campaign, a toy's and a small one with DFT."""
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium here: {CHROMIUM}")
    up = Up(tmp_path_factory.mktemp("browser"))
    folder = up.folder / "campaigns"
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    (folder / "quickstart.yaml").write_text(quickstart.read_text())
    (folder / "small.yaml").write_text(SMALL.read_text().replace("budget: 2", "budget: 1"))
    process = up.start()
    try:
        ready(process, up)
        yield up
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        for left in members(up.folder):
            left.kill()


@pytest.fixture
def stranger(up: Up) -> Iterator[Page]:
    """A browser that nobody has logged in with."""
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        api.expect.set_options(timeout=PATIENCE_MS)
        yield page
        browser.close()


@pytest.fixture
def page(stranger: Page, up: Up) -> Page:
    """One that was given the link that a terminal shows."""
    stranger.goto(f"http://127.0.0.1:{up.port}{LOG_IN}#{up.word()}")
    # The address comes before the log-in is tried, and Prefect's page forgets the word where a trial is broken off.
    api.expect(stranger.get_by_role("link", name="Deployments")).to_be_visible()
    return stranger


def picture(page: Page, name: str) -> None:
    """Keep a picture where ASSAY_PICTURES says, for a person to look at."""
    if folder := os.environ.get("ASSAY_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def open_form(page: Page, up: Up, campaign: str) -> None:
    """Go from the front page to the form of a campaign, as one does with the mouse."""
    page.goto(f"http://127.0.0.1:{up.port}/")
    page.get_by_role("link", name="Deployments").click()
    page.get_by_role("link", name=campaign, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    api.expect(page.get_by_label("Name", exact=True)).to_have_value(campaign)


def submit(page: Page) -> None:
    for _ in range(3):  # a server that is busy says so, and one clicks again
        with page.expect_response(lambda told: told.url.endswith("/create_flow_run")) as made:
            page.get_by_role("button", name="Submit").click()
        if made.value.ok:
            break
    assert made.value.ok, made.value.text()
    # The message with the button that leads there goes by itself, on a busy machine before it can be clicked.
    front, _, _ = page.url.partition("/deployments/")
    page.goto(f"{front}/runs/flow-run/{made.value.json()['id']}")


def test_the_ui_shows_nothing_to_a_stranger_and_takes_the_log_in_by_hand(stranger: Page, up: Up) -> None:
    stranger.goto(f"http://127.0.0.1:{up.port}/")
    field = stranger.get_by_placeholder("admin:pass")
    field.fill("assay:guess")
    stranger.get_by_role("button", name="Login").click()
    api.expect(field).to_be_visible()
    picture(stranger, "log-in")
    assert not stranger.get_by_role("link", name="Deployments").is_visible()
    field.fill(up.word())
    stranger.get_by_role("button", name="Login").click()
    stranger.get_by_role("link", name="Deployments").click()
    api.expect(stranger.get_by_role("link", name="first", exact=True).first).to_be_visible()


def test_a_page_of_another_site_can_start_nothing(page: Page, up: Up) -> None:
    """In a browser that is logged in, too."""
    deployment = deployed(up, "first")["id"]
    url = f"{up.prefect.url}/deployments/{deployment}/create_flow_run"
    before = up.prefect.post("/flow_runs/filter")
    page.route("http://evil.example/", lambda route: route.fulfill(body="<p>Hello</p>", content_type="text/html"))
    page.goto("http://evil.example/")
    ask = "([url, mode]) => fetch(url, {method: 'POST', mode, body: '{}'}).then(a => a.type, () => 'refused')"
    assert page.evaluate(ask, [url, "cors"]) == "refused"
    page.evaluate(ask, [url, "no-cors"])  # a browser may send this one, and says nothing of the answer
    assert up.prefect.post("/flow_runs/filter") == before


def test_the_form_explains_itself(page: Page, up: Up) -> None:
    open_form(page, up, "quickstart")
    picture(page, "form")
    for words in (
        "Lower-case letters, digits and dashes.",
        "Where candidates come from.",
        "Known structure types, decorated with elements.",
        "Force threshold (eV/Å)",
        "Candidate validations in all; competing phases come on top.",
        "Memory of a worker (GiB)",
        "Walltime of a calculation (s)",
    ):
        api.expect(page.get_by_text(words, exact=False).first).to_be_visible()
    # What may stay empty is a field, and no choice of a type.
    assert "None" not in page.inner_text("body")
    # A kind of source is a tab, an element a select.
    page.get_by_role("tab", name="Materials Project").first.click()
    api.expect(page.get_by_text("Holds all of these.").first).to_be_visible()
    picture(page, "form-source")


def test_a_campaign_filled_in_by_hand_runs_to_its_table(page: Page, up: Up) -> None:
    open_form(page, up, "first")
    page.get_by_label("Name", exact=True).fill("by-hand")
    # The form has opened the kind of source that the file says, and does not mix in another's fields.
    api.expect(page.get_by_role("tab", name="Files")).to_have_attribute("aria-selected", "true")
    submit(page)
    api.expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=2 * PATIENCE_MS)
    picture(page, "run")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("assay-by-hand", exact=False).first.click()
    api.expect(page.locator("table").first).to_be_visible()
    assert "base64" not in page.inner_text("body")
    picture(page, "artifact")


def test_a_schedule_made_by_mouse_changes_nothing_of_the_campaign(page: Page, up: Up) -> None:
    page.goto(f"http://127.0.0.1:{up.port}/")
    page.get_by_role("link", name="Deployments").click()
    page.get_by_role("link", name="first", exact=True).first.click()
    page.get_by_role("button", name="Schedule").first.click()
    dialog = page.get_by_role("dialog")
    api.expect(dialog.get_by_text("Calculator arguments").first).to_be_visible()
    dialog.get_by_role("button", name="Save").click()
    api.expect(page.get_by_text("Every 1 hour").first).to_be_visible()
    picture(page, "schedule")
    [schedule] = deployed(up, "first")["schedules"]
    assert schedule["active"]
    assert schedule["parameters"] == {}  # a section that it held would replace the campaign's


def test_a_run_cancelled_in_mid_dft_leaves_nothing_and_goes_on(page: Page, up: Up, gpaw: None) -> None:
    def done() -> set[str]:
        return {key for (key,) in ask(up.folder, "select calculation_id from calculations where fidelity = 'dft'")}

    open_form(page, up, "small")
    submit(page)
    flow_run_id = page.url.rpartition("/")[2].partition("?")[0]
    assert soon(lambda: bool(processes(up.folder, "driver.py") and done())), page.inner_text("body")
    assert processes(up.folder, "driver.py") & processes(up.folder, flow_run_id)
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Cancel").click()
    picture(page, "cancel")
    page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()
    api.expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible()
    picture(page, "cancelled")

    assert soon(lambda: not processes(up.folder, flow_run_id))
    assert not processes(up.folder, "driver.py")
    assert ask(up.folder, "select state from runs where campaign_id like 'small-%'") == [("stopped",)]
    assert ask(up.folder, "pragma foreign_key_check") == []
    # That they were ended is no calculation's fault.
    assert ask(up.folder, "select * from failures where stage = 'dft'") == []
    kept = ask(up.folder, "select * from calculations order by calculation_id")
    before = attempts(up)
    ended = {folder for folder, last in before.items() if not last["taken_back"]}
    assert done() == ended != before.keys()

    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Copy to new run").click()
    api.expect(page.get_by_label("Name", exact=True)).to_have_value("small")
    submit(page)
    api.expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=4 * PATIENCE_MS)
    page.reload()
    api.expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    picture(page, "gone-on")
    whole = ask(up.folder, "select * from calculations order by calculation_id")
    assert set(kept) < set(whole)
    assert len({row[0] for row in whole}) == len(whole)  # none twice
    assert {folder: attempts(up)[folder] for folder in ended} == {folder: before[folder] for folder in ended}


def attempts(up: Up) -> dict[str, dict[str, Any]]:
    """By calculation_id: the last attempt at it."""
    files = up.folder.glob("assay-runs/dft/*/attempts.json")
    return {file.parent.name: json.loads(file.read_text())[-1] for file in files}
