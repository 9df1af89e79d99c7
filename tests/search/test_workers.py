"""A search whose trials are trained by several workers each, through Ray Train, on a cluster with a dashboard."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from search.folder import SearchFolder
from search.launch import RAY_SETTINGS
from search.record import State
from tests.search.test_preflight import RAY, free_port

CPUS = 4
GOOD, HOPELESS = 7, 22
RATES = [0.02 + number / 1000 for number in range(GOOD)] + [1.001e-7 + number * 1e-9 for number in range(HOPELESS)]
TRY = "\n".join(f"  - {{backbone: mae_tiny, head_lr: {rate:.4e}}}" for rate in RATES)
SEARCH = """\
name: {name}
dataset: {{reader: folder, root: {images}, policy: digits}}
backbones: [mae_tiny]
weights: random
space:
  {{batch_size: 32, head: linear, mixup: 0.0, drop_path: 0.0, trained_blocks: 1, adapter: null,
  head_lr: {{float: [1.0e-8, 1.0e-1], log: true}}}}
try:
{tried}
expert_first: false
budget: {{trials: {trials}, epochs: 8}}
stopping: {{grace: 0.25, eta: 4}}
resources: {{workers: {workers}}}
mlflow: off
seed: 1
storage: {storage}
"""
LOOK = """
import ray, sys, time
ray.init(address=sys.argv[1], logging_level="ERROR")
deadline = time.monotonic() + 60
while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < deadline:
    time.sleep(0.5)
print("free", ray.available_resources().get("CPU", 0), "groups",
      sum(group["state"] not in ("REMOVED",) for group in ray.util.placement_group_table().values()))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of one node with token authentication and a dashboard on loopback."""
    folder = tempfile.mkdtemp(prefix="medtune.", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
    address = f"127.0.0.1:{free_port()}"
    command = [RAY, "start", "--head", f"--port={address.split(':')[1]}", f"--num-cpus={CPUS}", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--dashboard-port={free_port()}", f"--temp-dir={folder}"]
    environment = {**os.environ, **RAY_SETTINGS, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a token of this test"}
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    os.environ.update({name: environment[name] for name in before})
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while looked := look(address, wait=False):
            if looked.startswith("free"):
                break
            assert time.monotonic() < deadline and head.poll() is None, looked
        yield address
    finally:
        for process in (*psutil.Process(head.pid).children(recursive=True), head):  # no other Ray on this machine
            process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def look(address: str, wait: bool = True) -> str:
    """What is free and how many placement groups there are."""
    done = subprocess.run([sys.executable, "-c", LOOK, address], capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else f"not there: {done.stderr[-500:]}"


def search(address: str, digits: Path, home: Path, name: str, workers: int, trials: int) -> SearchFolder:
    text = SEARCH.format(
        name=name, images=digits / "images", storage=home / "runs", workers=workers, trials=trials, tried=TRY
    )
    (home / f"{name}.yaml").write_text(text)
    command = [sys.executable, "-m", "search.cli", "search", str(home / f"{name}.yaml"), "--address", address]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return SearchFolder(home / "runs" / name)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_trials_of_several_workers_are_those_of_one_and_leave_nothing_taken(
    cluster: str, digits: Path, tmp_path: Path
) -> None:
    """After 20 trials of two workers that were stopped early, all CPUs are free and no placement group is left; the
    losses of a trial of two and of four workers are those of one."""
    started = time.monotonic()
    pair = search(cluster, digits, tmp_path, "pair", 2, GOOD + HOPELESS)
    took = time.monotonic() - started
    trials = pair.study().trials
    stopped = [trial for trial in trials if trial.state is State.PRUNED]
    free = look(cluster)
    print(f"\n{len(trials)} trials of two workers in {took:.0f} s, {len(stopped)} stopped early; then: {free}")
    assert {trial.state for trial in trials} == {State.COMPLETE, State.PRUNED} and len(stopped) >= 20
    assert all((pair.path / "trials" / f"{trial.number:05d}" / "stopped").exists() for trial in stopped)
    assert free == f"free {float(CPUS)} groups 0"

    one = search(cluster, digits, tmp_path, "single", 1, 1).study().trials[0]
    four = search(cluster, digits, tmp_path, "four", 4, 1).study().trials[0]
    for workers, several in ((2, trials[0]), (4, four)):
        assert one.point == several.point and one.seed == several.seed
        losses = [[epoch.train_loss for epoch in trial.epochs.values()] for trial in (one, several)]
        apart = max(abs(alone - shared) / alone for alone, shared in zip(*losses, strict=True))
        print(f"largest relative difference of an epoch's mean loss, {workers} workers against one: {apart:.1e}")
        assert apart < 1e-4
    assert look(cluster) == f"free {float(CPUS)} groups 0"
