"""Ray's own processes on this machine killed: a person is told, nothing stays behind, and a resume goes on."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from search.folder import SearchFolder
from search.head import GRACE
from tests.faults.searches import check_whole, epochs_in, fixed_list, kill_group, ran, wait_until, written
from tests.faults.test_driver_signals import allowed

TRIALS, EPOCHS = 4, 40


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["gcs_server"])
def test_told_and_resumed(tmp_path: Path, name: str) -> None:
    """Passes if the driver says within half a minute that the process has ended and how to go on, exits with 1, leaves
    no process running and no trial failed, and a resume ends with the record of an undisturbed search."""
    settings = written(tmp_path, fixed_list(tmp_path, TRIALS, EPOCHS))
    folder, output = tmp_path / "runs" / "fixed", tmp_path / "output.txt"
    with output.open("wb") as file:
        driver = subprocess.Popen(
            [sys.executable, "-m", "search.cli", "search", str(settings)],
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_until(lambda: epochs_in(folder) >= 2 or driver.poll() is not None, 600, "two epochs")
        assert driver.poll() is None, output.read_text()
        started = psutil.Process(driver.pid).children(recursive=True)
        [one] = [child for child in started if child.name() == name]
        one.kill()
        took = wait_until(lambda: driver.poll() is not None, allowed(30), "the driver's end")
        print(f"{name}: told and ended after {took:.1f} s")
        assert driver.returncode == 1 and took > GRACE - 1
        said = output.read_text()
        [sentence] = [line for line in said.splitlines() if line.startswith("Ray's own ")]
        assert name in sentence and f"medtune resume {folder}" in sentence
        assert "Traceback" not in said
        left = psutil.wait_procs(started, timeout=allowed(30))[1]
        assert not [child.name() for child in left]
    finally:
        kill_group(driver)
    assert {str(t.state) for t in SearchFolder(folder).study().trials} <= {"complete", "running"}
    done = ran("resume", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    check_whole(SearchFolder(folder), TRIALS)
