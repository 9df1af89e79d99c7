"""A colleague who may read a storage and write nothing in it can look at searches: status, ls, diff, report, ui.

    python -m pytest -m slow tests/search/test_looking_only.py

As root, who may write everywhere, the commands run without that right (setpriv, of util-linux).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ALMIGHTY = "dac_override"  # the right to write whatever permissions say
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def readable(finished: Path) -> Iterator[Path]:
    """A copy of a storage that can be read by everybody, and written by its owner alone."""
    home = Path(tempfile.mkdtemp(dir="/tmp"))
    shutil.copytree(finished.parent, home / "runs")
    for path in [home, *home.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield home / "runs"
    for path in [home, *home.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(home)


def unable() -> list[str]:
    """In front of a command: it can't write where permissions forbid it."""
    return ["setpriv", f"--bounding-set=-{ALMIGHTY}", "--"] if os.geteuid() == 0 else []


def start(desk: Path, *words: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "HOME": str(desk), "TMPDIR": str(desk), "MPLCONFIGDIR": str(desk)}
    return subprocess.Popen(
        [*unable(), sys.executable, "-m", "search.cli", *map(str, words)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_looking_needs_no_right_to_write(readable: Path) -> None:
    desk = Path(tempfile.mkdtemp(dir="/tmp"))
    desk.chmod(0o777)
    try:
        search = readable / "digits"
        assert subprocess.run([*unable(), "touch", search / "new"], stderr=subprocess.DEVNULL).returncode
        before = {path: path.stat().st_mtime_ns for path in readable.rglob("*")}

        def told(*words: object) -> str:
            process = start(desk, *words)
            output = process.communicate(timeout=240)[0]
            assert process.returncode == 0, output
            return output

        assert len(json.loads(told("status", search, "--json"))["trials"]) == 8
        assert "digits" in told("ls", readable)
        assert "Nothing differs" in told("diff", search, search)
        told("report", search, "-o", desk / "report.html")
        assert "may be the best" in (desk / "report.html").read_text()
        server = start(desk, "ui", search)
        try:
            assert server.stdout is not None
            address = ""
            for line in server.stdout:
                if line.startswith("MLflow: http"):
                    address = line.split()[1]
                    break
            with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
                assert answer.status == 200
            with urllib.request.urlopen(
                f"{address}/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=medtune", timeout=30
            ) as answer:
                assert json.load(answer)["experiment"]["name"] == "medtune"
        finally:
            server.terminate()
            server.wait(60)
        assert {path: path.stat().st_mtime_ns for path in readable.rglob("*")} == before
    finally:
        shutil.rmtree(desk, ignore_errors=True)
