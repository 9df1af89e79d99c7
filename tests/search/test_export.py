"""Exports from a record that was written here, without a search."""

from pathlib import Path

import pytest

from search.cli import main
from search.export import left_out
from search.folder import DATA, SETTINGS, SearchFolder, to_yaml
from search.record import Epoch, State
from search.sampler import sampler_of
from search.study import Study, open_storage
from spaces.config import SearchConfig
from spaces.library import assemble

CONFIG = SearchConfig.parse(
    {
        "name": "a",
        "dataset": {"reader": "folder", "root": "x", "policy": "digits"},
        "backbones": ["dinov2_tiny", "mae_tiny", "clip_tiny"],
        "weights": "random",
        "metric": "accuracy",
        "strategy": "compare",
        "budget": {"trials": 6, "epochs": 1},
    },
    "s",
)
IDENTITY = {"direction": "maximize", "metric": "accuracy", "data": "", "split": "", "test": "", "versions": {}}


@pytest.fixture
def found(tmp_path: Path) -> SearchFolder:
    """A comparison in which one backbone has a complete trial, one a failed and a pruned one, one none yet."""
    folder = tmp_path / "a"
    (folder / DATA).mkdir(parents=True)
    (folder / SETTINGS).write_text(to_yaml(CONFIG.plain()))
    storage = open_storage(folder, None)
    study = Study.create(storage, "a", "maximize", IDENTITY)
    space = assemble(CONFIG)
    sampler = sampler_of(CONFIG, space, "maximize", [])
    ends = (("dinov2_tiny", State.COMPLETE), ("mae_tiny", State.FAILED), ("mae_tiny", State.PRUNED))
    for number, (name, state) in enumerate(ends):
        point = space.complete({"backbone": name})
        study.add(point, space.keyed(point), sampler.distributions(point), seed=0, job=str(number), why="x")
        study.epoch(number, Epoch(1, 0.5, 0.1, 1.0, {}, 1.0, 0.0))
        study.end(number, state, "", 0.5 if state is State.COMPLETE else None)
    return SearchFolder(folder)


def test_backbones_without_a_complete_trial_are_named(
    found: SearchFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert left_out(found) == [
        f"{name}: NOT exported: it has no complete trial; the record has {had} of it. More trials may find one: "
        f"medtune resume {found.path} --set budget.trials=N."
        for name, had in (("mae_tiny", "2 trials (1 pruned, 1 failed)"), ("clip_tiny", "no trial at all"))
    ]
    assert main(["export", str(found.path), "-o", str(tmp_path / "best.yaml"), "--per", "backbone"]) == 0
    assert [p.name for p in tmp_path.glob("best*")] == ["best-dinov2_tiny.yaml"]
    printed = capfd.readouterr().out
    assert "best-dinov2_tiny.yaml: trial 0" in printed
    assert "accuracy 0.5000 [0.3135, 0.6865] on validation" in printed, "its interval, from a standard error of 0.1"
    assert printed.count("NOT exported") == 2
