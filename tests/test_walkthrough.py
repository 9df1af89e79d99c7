"""README's own-images part and docs/tasks.md, typed as they stand, on handwritten digits.

    python -m pytest -m slow -s tests/test_walkthrough.py

What needs a network or an accelerator is exchanged, and nothing else: README's backbones for tiny ones with random
weights, its budget for a small one.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from search.console import Console
from search.demo import demo
from tests.search.conftest import status, write_digits
from tests.test_docs import blocks

ROOT = Path(__file__).parents[1]
EXCHANGED = {
    "[dinov2_base, mae_base]": "[dinov2_tiny, mae_tiny]\nweights: random\nspace: {batch_size: 32}",
    "budget: {trials: 50, epochs: 30}": "budget: {trials: 6, epochs: 4}",
    "resources: {accelerators: 1, cpus: 4}": "resources: {cpus: 1}",
}
ORDER = ["check", "search", "status", "resume", "export", "final", "report", "predict", "ui"]
FIVE_MINUTES = 300  # seconds, in which a person has seen all of it; on two cores that do little else
SERVING = 240  # seconds that a server may take on a busy machine
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Desk:
    """A folder in which a person types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def type(self, command: str, seconds: float = 600) -> str:
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        print(f"{time.monotonic() - started:6.1f} s  {command.splitlines()[0][:110]}", flush=True)
        assert done.returncode == 0, command + "\n" + done.stdout + done.stderr
        return done.stdout

    def serve(self, command: str, address: str = "") -> "subprocess.Popen[bytes]":
        """Starts what runs until it is stopped, and waits until it answers at its address, given or said by it."""
        with (self.folder / "server.txt").open("wb") as log:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + SERVING
        while True:
            said = (self.folder / "server.txt").read_text()
            told = re.search(r"MLflow: (http\S+)", said)
            try:
                if address or told:
                    urllib.request.urlopen(address or (told[1] if told else ""), timeout=5).close()
                    return server
            except OSError:
                pass
            assert server.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.5)


def stop(server: "subprocess.Popen[bytes]") -> None:
    for process in [*psutil.Process(server.pid).children(recursive=True), server]:
        process.send_signal(signal.SIGTERM)
    server.wait(60)


def lines(block: str) -> Iterator[str]:
    """Commands of a block, long ones whole, without what is said beside them."""
    for line in block.replace("\\\n", " ").splitlines():
        if command := re.sub(r"\s{2,}#.*$", "", line).strip():
            yield command


def table_of_digits(folder: Path) -> None:
    """What README and getting_started begin with: images in `data` with a table, and 20 others in `new_images`."""
    write_digits(folder / "all", 400)
    pictures = sorted((folder / "all").rglob("*.png"))
    (folder / "data").mkdir()
    (folder / "new_images").mkdir()
    rows = []
    for index, picture in enumerate(pictures):
        if index % 20:
            shutil.copy(picture, folder / "data" / f"{index:04d}.png")
            rows.append([f"{index:04d}.png", f"digit {picture.parent.name}", f"p{index // 2}"])
        else:
            shutil.copy(picture, folder / "new_images" / f"{index:04d}.png")
    with (folder / "data" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "patient"], *rows])


def test_readme_from_a_table_to_predictions(tmp_path: Path) -> None:
    """All of "Your own images", in the order in which it stands there."""
    desk = Desk(tmp_path)
    table_of_digits(tmp_path)
    part = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Your own images")[2]
    [settings, *_] = blocks(part, "yaml")
    for what, instead in EXCHANGED.items():
        assert what in settings
        settings = settings.replace(what, instead)
    started = time.monotonic()
    (tmp_path / "search.yaml").write_text(settings)
    [commands] = [block for block in blocks(part, "") if block.startswith("medtune check ")]
    typed = list(lines(commands))
    assert [command.split()[1] for command in typed] == ORDER
    for command in typed:
        if command.startswith("medtune ui"):
            stop(desk.serve(command))
            continue
        if command.startswith("medtune search"):
            print(f"{time.monotonic() - started:6.1f} s  from settings to the search's start", flush=True)
        output = desk.type(command)
        if command.startswith("medtune status"):
            assert "Best: trial" in output and "6 of 6 trials" in output
    report = (tmp_path / "report.html").read_text()
    trials = status(tmp_path / "runs" / "lesions")["trials"]
    compared = {trial["parameters"]["backbone"] for trial in trials if trial["state"] == "complete"}
    assert ("may be the best" in report) == (len(compared) == 2), compared
    with (tmp_path / "predictions.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    assert len(predicted) == 20 and all(row["predicted"].startswith("digit ") for row in predicted)
    took = time.monotonic() - started
    print(f"{took:6.1f} s  all of it", flush=True)
    assert took < FIVE_MINUTES


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """After `make demo`, a smaller one."""
    folder = tmp_path_factory.mktemp("desk")
    made = Desk(folder)
    made.environment["MEDTUNE_STORAGE"] = "demo/runs"
    changed = pytest.MonkeyPatch()
    with changed.context() as patch:
        import search.demo

        patch.setattr(
            search.demo, "SETTINGS", search.demo.SETTINGS.replace("{trials: 16, epochs: 20}", "{trials: 6, epochs: 8}")
        )
        assert demo(folder / "demo", Console.silent()) == 0
    return made


def task(name: str) -> list[str]:
    """The blocks under a heading of docs/tasks.md."""
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    part = re.split(r"^## ", text, flags=re.MULTILINE)
    [own] = [p for p in part if p.startswith(name)]
    return [*blocks(own, "yaml", "")]


def test_the_seven_tasks(desk: Desk) -> None:
    runs = desk.folder / "demo" / "runs"
    table, settings, search = task("Add a dataset")
    for command in table.splitlines():
        desk.type(command)
    (desk.folder / "demo" / "table.yaml").write_text(settings)
    for command in lines(search):
        desk.type(command)
    [backbone] = task("Add a backbone")
    desk.type(backbone)
    tried = {trial["parameters"]["backbone"] for trial in status(runs / "table")["trials"]}
    assert tried == {"dinov2_tiny", "timm/test_vit.r160_in1k"}
    [wider] = task("Widen a space")
    desk.type(wider)
    assert len(status(runs / "table")["trials"]) == 12
    [killed] = task("Continue a killed search")
    for command in lines(killed):
        desk.type(command)
    found = status(runs / "killed")
    assert len(found["trials"]) == found["ordered"] and "running" not in found["states"]
    [compared] = task("Compare two searches")
    said = [desk.type(command) for command in lines(compared)]
    assert "dataset.reader" in said[0] and "csv" in said[0] and "folder" in said[0]
    assert "Datasets by backbones" in (desk.folder / "demo" / "both.html").read_text()
    [final] = task("A final with five seeds")
    for command in lines(final):
        desk.type(command)
    assert "5 seeds" in (desk.folder / "demo" / "killed.html").read_text()
    assert "a second configuration for these digits" in (desk.folder / "demo" / "killed.html").read_text()
    served, asked = task("Serve it")
    *before, server = lines(served)
    address, sync = before
    desk.environment["MLFLOW_TRACKING_URI"] = address.partition("=")[2]
    desk.type(sync)
    running = desk.serve(server, "http://127.0.0.1:5001/ping")
    try:
        curl, predict = lines(asked)
        answer = desk.type(curl)
        desk.type(predict)
    finally:
        stop(running)
    with (desk.folder / "demo" / "three.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    said_by_server = dict(re.findall(r'"(p_\d)": ([\d.e-]+)', answer))
    assert len(said_by_server) == 10
    for name, value in said_by_server.items():
        assert float(value) == pytest.approx(float(row[name]), abs=1e-5)
