"""The digits' search of 24 trials, killed at random moments: `make test-faults` (minutes)."""

import json
import os
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from search.demo import write_digits
from search.folder import SearchFolder
from search.study import JOURNAL
from tests.search.conftest import Killable, killable, medtune, succeed
from tests.search.test_resume import check_end, history

SETTINGS = """\
name: digits
dataset: {reader: folder, root: images, policy: digits}
backbones: [dinov2_tiny, mae_tiny]
weights: random
space:
  batch_size: 32
  head: {choice: [linear, attentive]}
  adapter: null
  head_lr: {float: [1.0e-3, 1.0e-2], log: true, default: 3.0e-3}
  label_smoothing: 0.05
try:
  - {backbone: mae_tiny, trained_blocks: all, head_lr: 3.0e-3, backbone_lr_ratio: 1.0, level: 1, ema: 0.0}
budget: {trials: 24, epochs: 30}
metric: accuracy
storage: STORAGE
"""
KILLS = 3
assert killable  # the fixture


def wait_until(condition: Any, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.1)


def tear(journal: Path, generator: random.Random) -> None:
    """Cuts the last line in its middle, as a kill during its write does."""
    data = journal.read_bytes()
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    os.truncate(journal, generator.randint(start + 1, len(data) - 2))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_digits_killed_at_random_moments(tmp_path: Path, killable: Any) -> None:
    seed = int(os.environ.get("KILL_SEED", "0"))
    generator = random.Random(seed)
    write_digits(tmp_path / "images")
    settings = tmp_path / "search.yaml"
    settings.write_text(SETTINGS.replace("STORAGE", str(tmp_path / "runs")))
    folder = tmp_path / "runs" / "digits"
    started = time.monotonic()
    command: Killable = killable("search", settings)
    ended: dict[int, str] = {}
    for kill in range(KILLS):
        reached = len(history(folder)["epochs"]) if (folder / JOURNAL).exists() else 0
        wanted = reached + generator.randint(5, 70)

        def far_enough(wanted: int = wanted) -> bool:
            return (folder / JOURNAL).exists() and len(history(folder)["epochs"]) >= wanted

        wait_until(far_enough, 600)
        time.sleep(generator.random() * 3)
        command.kill()
        if kill == KILLS - 1:
            tear(folder / JOURNAL, generator)
        trials = SearchFolder(folder).study().trials
        for number, before in ended.items():  # nothing that had ended is touched
            assert repr(trials[number]) == before
        ended = {t.number: repr(t) for t in trials if t.state.terminal}
        print(
            f"kill {kill + 1} after {len(history(folder)['epochs'])} epochs, {len(ended)} of {len(trials)} trials ended"
        )
        command = killable("resume", folder)
    assert command.process.wait(timeout=1500) == 0
    check_end(folder, 24)
    trials = SearchFolder(folder).study().trials
    for number, before in ended.items():
        assert repr(trials[number]) == before
    print(
        f"search: {time.monotonic() - started:.0f} s, {sum(t.done for t in trials)} epochs, "
        f"{medtune('status', folder).stdout.splitlines()[-2:]}"
    )

    wait_until(lambda: not command.all(), 120)  # MLflow's mirror ends by itself
    database = sqlite3.connect(tmp_path / "runs" / "mlflow.db")
    runs = dict(database.execute("select value, run_uuid from tags where key = 'medtune.trial'").fetchall())
    assert (
        database.execute("select count(*) from tags where key = 'medtune.trial'").fetchone() == (24,)
        and len(runs) == 24
    )
    for trial in trials:
        [run] = [run for tag, run in runs.items() if tag.endswith(f":{trial.number}")]
        steps = database.execute(
            "select step, value from metrics where run_uuid = ? and key = 'accuracy' order by step", (run,)
        ).fetchall()
        assert steps == [(e, trial.epochs[e].value) for e in sorted(trial.epochs)]

    succeed("export", folder, "-o", tmp_path / "best.yaml")
    # Its choices are made, so that validation's images are trained on too: 20 % of the data, some two points here.
    final = medtune("final", tmp_path / "best.yaml", "--seeds", "3", "--fit", "all", "-o", tmp_path / "final")
    assert final.returncode == 0, final.stderr
    print(final.stdout)
    result = json.loads((tmp_path / "final" / "result.json").read_text())
    test = result["configurations"][0]["test"]
    assert test["low"] < test["value"] < test["high"]
    assert test["value"] >= 0.93
