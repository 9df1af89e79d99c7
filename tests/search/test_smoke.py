"""The smoke test touches every part of a search, and leaves nothing."""

from pathlib import Path

import numpy as np
import pytest

from search.cli import main
from search.folder import SearchFolder
from search.plan import Plan, plan
from search.smoke import STEPS, _few, _only
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from tests.search.conftest import medtune, write_digits
from tests.search.test_report import SETTINGS


@pytest.mark.parametrize("folds", [1, 3])
def test_few_images_are_enough_to_train_two_steps_and_to_evaluate(tmp_path: Path, folds: int) -> None:
    write_digits(tmp_path / "secret-folder", 400)
    dataset = {**SETTINGS["dataset"], "split": {"folds": folds}}  # type: ignore[dict-item]
    config = SearchConfig.parse({**SETTINGS, "storage": str(tmp_path / "runs"), "dataset": dataset}, "test")
    whole = plan(config, tmp_path, decoded=False).prepared
    training = _few(whole.manifest, whole.train, STEPS * 32)
    assert len(training) == 64 and set(whole.manifest.labels[training]) == set(range(10))
    kept = np.unique(np.concatenate([training, *(_few(whole.manifest, rows) for _, rows in whole.folds)]))
    small = _only(whole, kept)
    assert len(small.manifest) == len(kept) < len(whole.manifest) and len(small.folds) == folds
    for train, validation in small.folds:
        labels = small.manifest.labels[validation]
        assert np.bincount(labels, minlength=10).min() >= 2 and not np.intersect1d(train, validation).size
    assert np.array_equal(small.manifest.paths, whole.manifest.paths[kept])


@pytest.mark.slow
def test_the_command(settings: Path, tmp_path: Path) -> None:
    done = medtune("search", settings, "--smoke")
    shown = done.stdout
    assert done.returncode == 0, shown + done.stderr
    for part in ("Pixels: ", "checkpoint written", "Evaluated on", "Record: 1 trial", "MLflow: ", "passed in"):
        assert part in shown, shown
    for noise in ("INFO", "mlflow.store", "log.txt", "Best:", "Folder"):
        assert noise not in shown + done.stderr, f"{noise}: of what is gone when it is read, or of no meaning"
    assert "of no meaning" in shown
    assert not (tmp_path / "runs" / "digits").exists()
    left = [p for p in (tmp_path / "runs").rglob("*") if p.is_file() and "contents" not in p.parts]
    assert not left, left


@pytest.mark.slow
def test_what_goes_wrong_in_the_trial_is_told(settings: Path, tmp_path: Path) -> None:
    wild = ("--set", "space.head_lr=1.0e+30", "--set", "space.warmup=0.0", "--set", "try=[]")
    done = medtune("search", settings, "--smoke", *wild, "--set", "space.batch_size=8")
    assert done.returncode == 2 and "the trial ended as failed: the loss was" in done.stderr
    assert not list((tmp_path / "runs").glob(".smoke*"))


def test_what_goes_wrong_is_told_though_something_else_came_into_the_storage(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(planned: Plan, **_: object) -> SearchFolder:
        (tmp_path / "runs" / "notes.txt").touch()
        raise Mistake("the trial can't be run; mend that first.")

    monkeypatch.setattr("search.smoke.start", failing)
    assert main(["search", str(settings), "--smoke", "--set", f"cache={tmp_path / 'cache'}"]) == 2
    assert capsys.readouterr().err.endswith("medtune: the trial can't be run; mend that first.\n")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["notes.txt"]
