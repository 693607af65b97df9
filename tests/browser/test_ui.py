"""What a scientist does in the Prefect UI, in a real Chromium: fill the form, watch, read the report, cancel."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from ase.io import write

from tests.integration.test_prefect import METALS, SCREENING, crystals
from tests.integration.test_up import Up, members, ready

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
    """`assay up` with the quickstart's campaign, a small one and one that takes its time."""
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium here: {CHROMIUM}")
    up = Up(tmp_path_factory.mktemp("browser"))
    folder = up.folder / "campaigns"
    write(folder / "many.extxyz", crystals(METALS))
    slow = {"name": "many", "sources": [{"kind": "files", "path": "many.extxyz"}], "screening": SCREENING}
    (folder / "many.yaml").write_text(yaml.safe_dump(slow | {"dft": {"budget": 0}}))
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    (folder / "quickstart.yaml").write_text(quickstart.read_text())
    process = up.start()
    try:
        ready(process)
        yield up
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        for left in members(up.folder):
            left.kill()


@pytest.fixture
def page(up: Up) -> Iterator[Page]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        api.expect.set_options(timeout=PATIENCE_MS)
        yield page
        browser.close()


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
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("button", name="View run").click()
    page.wait_for_url("**/runs/flow-run/**")


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
    # A kind of source is a tab, an element a select.
    page.get_by_role("tab", name="MaterialsProject").first.click()
    api.expect(page.get_by_text("Holds all of these.").first).to_be_visible()
    picture(page, "form-source")


def test_a_campaign_filled_in_by_hand_runs_to_its_table(page: Page, up: Up) -> None:
    open_form(page, up, "first")
    page.get_by_label("Name", exact=True).fill("by-hand")
    submit(page)
    api.expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=2 * PATIENCE_MS)
    picture(page, "run")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("assay-by-hand", exact=False).first.click()
    api.expect(page.locator("table").first).to_be_visible()
    assert "base64" not in page.inner_text("body")
    picture(page, "artifact")
