"""examples/slurm.sh: what it decides, with stand-ins for SLURM, Ray and medtune; and, slowly, with the real two over an
allocation of two nodes that are this machine."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from search.folder import SearchFolder
from search.study import JOURNAL
from tests.search.conftest import SETTINGS, write_digits

SCRIPT = Path(__file__).parents[1] / "examples" / "slurm.sh"

SRUN = """#!/bin/sh
# Runs the command of a step here; a step of this allocation has one task.
echo "$*" >> "$RECORD/srun"
case "$*" in *--exclude=*) export RAY_TMPDIR="$RAY_TMPDIR.2" ;; esac   # another node's disk is its own
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then printf 'one\\ntwo\\n'; else echo "$*" >> "$RECORD/scontrol"; fi
"""
RAY = """#!{python}
import pathlib, os, socket, sys, time
port = [a.split("=")[1] for a in sys.argv if a.startswith("--port=")]
if port:
    listening = socket.create_server(("127.0.0.1", int(port[0])))
with (pathlib.Path(os.environ["RECORD"]) / "ray").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
(pathlib.Path(os.environ["RAY_TMPDIR"]) / "session").mkdir(parents=True)
time.sleep(60)
"""
PYTHON = """#!/bin/sh
# Ray's two questions are answered here, the others by Python.
case "$*" in
    *ray.util*) echo 127.0.0.1 ;;
    "- 127.0.0.1:"*) cat > /dev/null ;;
    *) exec {python} "$@" ;;
esac
"""
MEDTUNE = """#!/bin/sh
# Ends with $CODE; where $WAITS is set, only after a SIGTERM.
trap 'exit $CODE' TERM
echo "$*" >> "$RECORD/medtune"
if [ -n "$WAITS" ]; then while true; do sleep 0.1; done; fi
exit $CODE
"""


class Job:
    """One run of the script, as SLURM starts it."""

    def __init__(self, folder: Path, environment: Path, *arguments: str, **variables: str) -> None:
        self.folder, self.mark = folder, secrets.token_hex(8)
        stubs = folder / "stubs"
        stubs.mkdir(exist_ok=True)
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            write_program(stubs / name, text)
        slurm = {
            "SLURM_JOB_ID": str(secrets.randbelow(10**6)),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "MEDTUNE_ENVIRONMENT": str(environment),
            "RAY_TMPDIR": str(folder / "scratch"),
            "RECORD": str(folder),
            "PATH": f"{stubs}:{os.environ['PATH']}",
            "MARK": self.mark,
        }
        with (folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                ["bash", SCRIPT, "search.yaml", *arguments],
                cwd=folder,
                env={**os.environ, **slurm, **variables},
                stdout=output,
                stderr=output,
            )

    def wait(self, timeout: float = 60) -> int:
        code = self.process.wait(timeout)
        assert not self.left(), "something of the job is left"
        return code

    def left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def read(self, name: str) -> str:
        file = self.folder / name
        return file.read_text() if file.exists() else ""

    def kill(self) -> None:
        while left := self.left():
            for process in left:
                process.kill()
            time.sleep(0.1)
        self.process.wait()


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def wait_until(condition: Callable[[], object], timeout: float, job: Job) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline and job.process.poll() is None, job.read("output.txt")
        time.sleep(0.1)


@contextmanager
def job(folder: Path, environment: Path, *arguments: str, **variables: str) -> Iterator[Job]:
    started = Job(folder, environment, *arguments, **variables)
    try:
        yield started
    finally:
        started.kill()


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder like an environment's, with stand-ins, beside the settings of a search."""
    programs = tmp_path / "environment" / "bin"
    programs.mkdir(parents=True)
    for name, text in {"ray": RAY, "python": PYTHON, "medtune": MEDTUNE}.items():
        write_program(programs / name, text.replace("{python}", sys.executable))
    (tmp_path / "search.yaml").write_text(SETTINGS.replace("STORAGE", "runs"))
    return programs.parent


def test_syntax() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_a_new_search_over_all_nodes(stubs: Path, tmp_path: Path) -> None:
    with job(tmp_path, stubs, CODE="0", SLURM_GPUS_ON_NODE="4") as run:
        assert run.wait() == 0, run.read("output.txt")
    head, workers = sorted(run.read("ray").splitlines(), key=lambda line: "--head" not in line)
    address = run.read("medtune").split()[-1]
    assert run.read("medtune") == f"search search.yaml --address {address}\n"
    assert "--head" in head and f"--port={address.split(':')[1]}" in head and f"--address={address}" in workers
    assert all("--num-cpus=1 --num-gpus=4" in line for line in (head, workers))
    first, others = sorted(run.read("srun").splitlines(), key=lambda line: "--nodelist" not in line)
    assert "--nodelist=one" in first and "--exclude=one" in others and "--nodes=1 --ntasks=1" in others
    assert not run.read("scontrol")


def test_only_the_jobs_own_files_are_removed_and_on_every_node(stubs: Path, tmp_path: Path) -> None:
    kept = tmp_path / "scratch" / "results" / "kept.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("of the person who sent the job, whose environment sbatch passes on")
    with job(tmp_path, stubs, CODE="0", WAITS="yes", SLURM_JOB_ID="77") as run:
        here, elsewhere = tmp_path / "scratch" / "ray-77", tmp_path / "scratch" / "ray-77.2"
        sessions = (here / "session", elsewhere / "session")
        wait_until(lambda: run.read("medtune") and all(session.is_dir() for session in sessions), 30, run)
        run.process.send_signal(signal.SIGUSR1)
        assert run.wait() == 0, run.read("output.txt")
    assert sorted((tmp_path / "scratch").iterdir()) == [kept.parent] and kept.exists()


def test_files_lie_in_tmp_by_default(stubs: Path, tmp_path: Path) -> None:
    number = str(10**9 + secrets.randbelow(10**6))
    with job(tmp_path, stubs, CODE="0", RAY_TMPDIR="", SLURM_JOB_ID=number) as run:
        assert run.wait() == 0, run.read("output.txt")
    assert f"--temp-dir=/tmp/ray-{number}" in run.read("ray") and not Path(f"/tmp/ray-{number}").exists()


def test_an_earlier_search_is_resumed(stubs: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    with job(tmp_path, stubs, CODE="0") as run:
        assert run.wait() == 0, run.read("output.txt")
    assert run.read("medtune").startswith("resume runs/digits --address 127.0.0.1:")
    assert "search.yaml isn't read again" in run.read("output.txt")


def test_further_arguments_are_passed_on(stubs: Path, tmp_path: Path) -> None:
    changes = ("--set", "budget.trials=100", "--set", "name=others")
    with job(tmp_path, stubs, *changes, CODE="0") as run:
        assert run.wait() == 0, run.read("output.txt")
    (tmp_path / "runs" / "others").mkdir(parents=True)
    with job(tmp_path, stubs, *changes, CODE="0") as run:
        assert run.wait() == 0, run.read("output.txt")
    new, again = run.read("medtune").splitlines()
    assert new.startswith("search search.yaml --address") and new.endswith(" ".join(changes))
    assert again.startswith("resume runs/others --address") and again.endswith(" ".join(changes))


@pytest.mark.parametrize(
    "arguments", [("--smoke",), ("other.yaml",), ("--set",), ("--set", "a=1", "--address", "auto")]
)
def test_what_medtune_wouldnt_take_twice_is_refused(stubs: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with job(tmp_path, stubs, *arguments, CODE="0") as run:
        assert run.wait() == 2
    assert "usage: sbatch slurm.sh" in run.read("output.txt") and not run.read("ray") and not run.read("medtune")


@pytest.mark.parametrize("code", [1, 2, 130])
def test_what_ends_by_itself_isnt_queued_again(stubs: Path, tmp_path: Path, code: int) -> None:
    with job(tmp_path, stubs, CODE=str(code)) as run:
        assert run.wait() == code
    assert run.read("medtune") and not run.read("scontrol")


@pytest.mark.parametrize(
    "code, restarts, ends, queued",
    [(130, "0", 0, True), (0, "0", 0, False), (2, "0", 2, False), (130, "100", 1, False)],
)
def test_before_the_walltime(stubs: Path, tmp_path: Path, code: int, restarts: str, ends: int, queued: bool) -> None:
    with job(tmp_path, stubs, CODE=str(code), WAITS="yes", SLURM_RESTART_COUNT=restarts, SLURM_JOB_ID="77") as run:
        wait_until(lambda: run.read("medtune"), 30, run)
        run.process.send_signal(signal.SIGUSR1)
        assert run.wait() == ends, run.read("output.txt")
    assert run.read("scontrol") == ("requeue 77\n" if queued else "")


def test_wrong_settings(stubs: Path, tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text("name: digits\n")
    with job(tmp_path, stubs, CODE="0") as run:
        assert run.wait() == 2
    assert "dataset" in run.read("output.txt") and not run.read("medtune")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_queued_again_and_finished(tmp_path: Path) -> None:
    write_digits(tmp_path / "images", 300)
    text = SETTINGS.replace("STORAGE", "runs").replace("trials: 8, epochs: 4", "trials: 4, epochs: 40")
    (tmp_path / "search.yaml").write_text(text + "mlflow: off\nstopping: {rule: off}\n")
    found = SearchFolder(tmp_path / "runs" / "digits")
    environment = Path(sys.prefix)
    short = Path(os.environ.get("RAY_TMPDIR", "/tmp"), secrets.token_hex(2))
    more = {"RAY_TMPDIR": str(short), "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "100000000"}
    with job(tmp_path, environment, **more) as run:
        wait_until(lambda: (found.path / JOURNAL).exists() and any(t.done for t in found.study().trials), 300, run)
        run.process.send_signal(signal.SIGUSR1)
        assert run.wait(120) == 0, run.read("output.txt")
    assert run.read("scontrol").startswith("requeue")
    before = found.study().trials
    assert any(not trial.state.terminal for trial in before)
    with job(tmp_path, environment, SLURM_RESTART_COUNT="1", **more) as run:
        assert run.wait(600) == 0, run.read("output.txt")
    assert len(run.read("scontrol").splitlines()) == 1
    after = found.study().trials
    assert len(after) == 4 and all(trial.state.terminal for trial in after)
    short.rmdir()  # nothing is left in it
