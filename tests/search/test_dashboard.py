"""optuna-dashboard opens the record, of a running search too: it reads, the driver writes."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from search.study import JOURNAL


def test_optuna_dashboard_shows_the_study(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / JOURNAL, tmp_path / JOURNAL)  # it may write notes of its own
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            Path(sys.executable).parent / "optuna-dashboard",
            tmp_path / JOURNAL,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        studies = _get(f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
        assert [s["study_name"] for s in studies] == ["digits"]
        shown = _get(f"http://127.0.0.1:{port}/api/studies/{studies[0]['study_id']}?after=0")
        assert len(shown["trials"]) == 8
    finally:
        server.kill()
        server.wait()


def _get(address: str, patience: float = 60) -> Any:
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "the dashboard doesn't answer"
            time.sleep(0.5)
