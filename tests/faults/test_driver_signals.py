"""Ctrl-C, Ctrl-C twice, and SIGTERM, which spot machines send: the search stops, and can be resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.folder import SearchFolder
from tests.faults.searches import check_whole, epochs_in, fixed_list, wait_until, written
from tests.search.conftest import Killable, killable

TRIALS, EPOCHS = 6, 60
SOON, AT_ONCE = 15, 5  # seconds
assert killable  # the fixture


def under_way(folder: Path, command: Killable) -> None:
    """Until two more epochs are in the record."""
    wanted = epochs_in(folder) + 2
    wait_until(lambda: epochs_in(folder) >= wanted or command.process.poll() is not None, 900, "two more epochs")
    assert command.process.poll() is None


def allowed(seconds: float) -> float:
    """That many seconds, and more in proportion where more processes want to run than there are processors."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def ended(command: Killable, code: int = 130) -> float:
    """Seconds until the command has ended with this code; nothing that it started may stay behind."""
    started = time.monotonic()
    assert command.process.wait(timeout=300) == code
    took = time.monotonic() - started
    deadline = time.monotonic() + allowed(60)  # Ray's agents look for their raylet now and then
    while left := [p.name() for p in command.all() if p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.2)
    print(f"the last process was gone {time.monotonic() - started:.1f} s after the signal")
    return took


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_stopped_by_signals_and_resumed(tmp_path: Path, killable: Any) -> None:
    """SIGTERM and one Ctrl-C end the search in 15 s, two in 5 s; no trial fails by it, nothing is left running, and
    after the last resume the record is that of a search that was never stopped."""
    settings = written(tmp_path, fixed_list(tmp_path, TRIALS, EPOCHS))
    folder = tmp_path / "runs" / "fixed"

    command = killable("search", settings)
    under_way(folder, command)
    command.process.send_signal(signal.SIGTERM)
    took = ended(command)
    print(f"SIGTERM: ended after {took:.1f} s")
    assert took < allowed(SOON)

    command = killable("resume", folder)
    under_way(folder, command)
    command.process.send_signal(signal.SIGINT)
    took = ended(command)
    print(f"Ctrl-C: ended after {took:.1f} s")
    assert took < allowed(SOON)

    command = killable("resume", folder)
    under_way(folder, command)
    command.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    command.process.send_signal(signal.SIGINT)
    took = ended(command)
    print(f"Ctrl-C twice: ended after {took:.1f} s")
    assert took < allowed(AT_ONCE)

    states = {str(t.state) for t in SearchFolder(folder).study().trials}
    assert states <= {"complete", "running"}
    command = killable("resume", folder)
    assert command.process.wait(timeout=1500) == 0
    check_whole(SearchFolder(folder), TRIALS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_terminals_ctrl_c_reaches_all_processes(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to Ray's processes and the workers too: still no trial fails, and it takes 15 s at most,
    though an epoch takes longer than that."""
    long = fixed_list(tmp_path, 2, 10_000, images=1500)
    settings = written(tmp_path, {**long, "space": {**long["space"], "resolution": 112}})
    folder = tmp_path / "runs" / "fixed"
    command = subprocess.Popen(
        [sys.executable, "-m", "search.cli", "search", str(settings)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: (folder / "trials").exists(), 900, "a trial")
        time.sleep(3)
        asked = time.monotonic()
        os.killpg(command.pid, signal.SIGINT)
        output, _ = command.communicate(timeout=300)
        took = time.monotonic() - asked
        print(f"Ctrl-C in the middle of an epoch: ended after {took:.1f} s")
        assert command.returncode == 130 and "medtune resume" in output
        assert took < allowed(SOON)
        assert {str(t.state) for t in SearchFolder(folder).study().trials} == {"running"}
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
            command.wait()
