"""The report and MLflow's pages in a real browser, headless Chromium.

    python -m pytest -m slow tests/search/test_pages.py

With PICTURES=docs/pictures in the environment the screenshots are kept there.
"""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from playwright.sync_api import Page, Request, sync_playwright

from search import ui
from search.disclosure import SearchFacts
from search.folder import SearchFolder
from search.mirror import Mirror
from search.mlflow_store import artifacts
from search.record import Epoch, State, Trial
from search.report import report
from search.tracking import local_uri
from tests.search.conftest import SETTINGS, succeed, write_digits
from tests.search.finals import final_of, search_of

OFFLINE = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MLFLOWS_OWN = ("users/current", "ResizeObserver loop")
"""What its pages ask for and its server without accounts hasn't got, and a remark of the browser's on their layout."""
A_FEW = 5.0  # seconds
MANY = 1000
A4 = 718  # CSS pixels between its margins
SHOWN = 30_000  # milliseconds that something may take to be on a page
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Browser:
    """A page of a browser, and all that went wrong on it."""

    def __init__(self, page: Page, pictures: Path) -> None:
        self.page, self.pictures, self.wrong = page, pictures, list[str]()
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("requestfailed", self._failed)
        page.on("response", lambda r: self.wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" and "404" not in m.text else None)

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by the test, which went to another page
            self.wrong.append(f"not loaded: {request.url}")

    def picture(self, name: str, whole: bool = False) -> None:
        assistant = self.page.get_by_role("button", name="Close", exact=True)  # MLflow's, beside what is to be shown
        if assistant.count():
            assistant.first.click()
            time.sleep(1)  # the page makes use of its room
        self.page.screenshot(path=self.pictures / f"{name}.png", full_page=whole)

    def beyond(self, known: Sequence[str]) -> list[str]:
        """What went wrong, without what is known to."""
        return [said for said in self.wrong if not any(one in said for one in known)]

    def has(self, *texts: str) -> None:
        """Each is on the page, or comes in time."""
        for text in texts:
            self.page.get_by_text(text).first.wait_for(state="attached", timeout=SHOWN)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("neither chromium nor google-chrome is installed")
    pictures = Path(os.environ.get("PICTURES", tmp_path))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=OFFLINE)
        yield Browser(started.new_page(viewport={"width": 1400, "height": 900}), pictures)
        started.close()


@pytest.fixture(scope="module")
def shown(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search with a final, all of it in MLflow."""
    home = tmp_path_factory.mktemp("shown")
    path = home / "search.yaml"
    path.write_text(SETTINGS.replace("STORAGE", str(home / "runs")).replace("images", str(digits / "images")))
    succeed("search", path)
    folder = home / "runs" / "digits"
    succeed("export", folder, "-o", home / "best.yaml")
    succeed("final", home / "best.yaml", "--seeds", 2)
    succeed("sync", folder)
    return folder


@pytest.fixture
def mlflow(shown: Path, tmp_path: Path) -> Iterator[str]:
    """The address of MLflow's pages for it."""
    with pages_of(shown.parent, tmp_path) as address:
        yield address


@contextmanager
def pages_of(storage: Path, log_to: Path) -> Iterator[str]:
    """MLflow's server on a storage, as `medtune ui` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    command = ui.server_command(uri, port, artifacts(uri))
    with (log_to / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | ui.SERVER_SETTINGS, stdout=log, stderr=log)
    try:
        ui._wait_for(server, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def test_the_report(shown: Path, browser: Browser, tmp_path: Path) -> None:
    """No error, nothing asked of anybody; figures have a size; no table or figure is wider than the window, also on a
    telephone."""
    succeed("report", shown, "-o", tmp_path / "report.html")
    page = browser.page
    page.goto((tmp_path / "report.html").as_uri())
    study = SearchFolder(shown).study()
    browser.has(
        "Final: balanced accuracy on the test set", "Calibration", "Operating points", "By class", "What mattered"
    )
    browser.has("medtune export")
    for figure in page.locator("figure svg").all():
        box = figure.bounding_box()
        assert box and box["width"] > 200 and box["height"] > 50
    assert page.locator("figure svg").count() >= 4
    assert page.locator("tr", has_text=State.PRUNED.value).count() >= sum(t.state is State.PRUNED for t in study.trials)
    browser.picture("report")
    browser.picture("report-whole", whole=True)
    for width in (1400, 700, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.wrong == []


def test_the_report_fits_on_paper(browser: Browser, tmp_path: Path) -> None:
    """Two configurations with long names, on A4 between margins of a centimetre: no table is wider."""
    write_digits(tmp_path / "images", 300)
    found = search_of(tmp_path, backbones=["dinov2_tiny", "timm/test_vit.r160_in1k"], classes_averaged=None)
    final_of(found)
    report([found], tmp_path / "report.html")
    page = browser.page
    page.set_viewport_size({"width": A4, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    page.emulate_media(media="print")
    tables = page.locator("table").all()
    widths = [box["width"] for table in tables if (box := table.bounding_box())]
    assert len(widths) > 15 and max(widths) <= A4, widths
    assert page.evaluate("document.documentElement.scrollWidth") <= A4
    assert browser.wrong == []


def test_mlflows_pages(shown: Path, mlflow: str, browser: Browser) -> None:
    """The search's run says how it goes and what is best, its trials lie under it, a trial has its curves, and the best
    one's pictures open."""
    study = SearchFolder(shown).study()
    with closing(sqlite3.connect(shown.parent / "mlflow.db")) as store:
        runs = dict(store.execute("select name, run_uuid from runs").fetchall())
        (experiment,) = store.execute("select experiment_id from runs limit 1").fetchone()
    best = max((t for t in study.trials if t.state is State.COMPLETE), key=lambda t: t.value or 0)
    place, page = f"{mlflow}/#/experiments/{experiment}/runs", browser.page

    page.goto(f"{place}?workflowType=machine_learning")
    browser.has("search digits", f"{len(study.trials) + 2} matching runs")
    browser.picture("mlflow-runs")
    page.goto(f"{place}/{runs['search digits']}")
    browser.has("medtune.best_trial", "medtune export digits", "trial 00")
    browser.picture("mlflow-search")
    page.goto(f"{place}/{runs[f'trial {best.number:04d}']}")
    browser.has("head_lr", "trained_blocks", "balanced_accuracy")
    page.goto(f"{place}/{runs[f'trial {best.number:04d}']}/model-metrics")
    browser.has("balanced_accuracy", "epoch_seconds")  # further down charts are drawn once they are looked at
    time.sleep(3)  # curves move into place
    browser.picture("mlflow-trial")
    page.goto(f"{place}/{runs['search digits']}/artifacts/best/reliability.png")
    browser.has("confusion_matrix.png", "roc.png")
    browser.picture("mlflow-pictures")
    trials = [runs[f"trial {t.number:04d}"] for t in study.trials if t.state is State.COMPLETE]
    asked = urlencode({"runs": json.dumps(trials), "experiments": json.dumps([str(experiment)])})
    page.goto(f"{mlflow}/#/compare-runs?{asked}")
    browser.has("Parallel Coordinates Plot", "head_lr")
    time.sleep(3)
    junk = page.get_by_text("batch_size", exact=True).count() + page.get_by_text("seed", exact=True).count()
    assert junk == 0, "what is the same for all trials, or says nothing of them, is no axis"
    browser.picture("mlflow-compare")
    page.goto(f"{mlflow}/#/models/medtune-digits")
    browser.has("medtune-digits")
    assert browser.beyond(MLFLOWS_OWN) == []


def test_a_thousand_trials_in_one_search(browser: Browser, tmp_path: Path) -> None:
    """Its page, and the table of runs, open in a few seconds."""
    random = np.random.default_rng(0)
    trials = []
    for number in range(MANY):
        value = float(random.uniform(0.5, 0.9))
        epochs = {1: Epoch(1, value, 0.02, 0.5, {"log_loss": 0.4}, 1.0, 1.6e9 + number)}
        point = {"backbone": f"backbone_{number % 7}", "trained_blocks": number % 3, "head_lr": float(random.random())}
        ended = 1.6e9 + number + 1
        trials.append(
            Trial(number, point, number, "job", 1.6e9 + number, "tpe", State.COMPLETE, "", value, ended, epochs)
        )
    facts = SearchFacts("many-0", "many", "balanced_accuracy", "maximize", ("backbone_0",))
    started = time.monotonic()
    Mirror(local_uri(tmp_path), facts).update(trials, driven=False)
    print(f"\n{time.monotonic() - started:.0f} s to mirror {MANY} trials")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        (parent,) = store.execute("select run_uuid from runs where name = 'search many'").fetchone()
        (experiment,) = store.execute("select experiment_id from runs limit 1").fetchone()
    with pages_of(tmp_path, tmp_path) as address:
        place = f"{address}/#/experiments/{experiment}/runs"
        browser.page.goto(f"{address}/#/models")  # the browser has the pages' code from here on
        browser.has("Registered Models")
        for what, url, texts in (
            ("a search's page", f"{place}/{parent}", ("medtune.best_trial", "Child runs")),
            ("the table of runs", f"{place}?workflowType=machine_learning", ("search many", "matching runs")),
        ):
            browser.page.goto("about:blank")
            started = time.monotonic()
            browser.page.goto(url)
            browser.has(*texts)
            seconds = time.monotonic() - started
            print(f"{seconds:.1f} s to open {what}")
            assert seconds < A_FEW, what
    assert browser.beyond(MLFLOWS_OWN) == []
