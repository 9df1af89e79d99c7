"""Checkpoints go, but for those that somebody may still want; results stay as they are."""

import json
import shutil
from pathlib import Path

import pytest

from search.folder import SearchFolder
from search.pruning import prune
from search.record import State, ranked
from search.report import report
from search.study import only_writer
from spaces.mistakes import Mistake
from tests.search.conftest import succeed, write_digits
from tests.search.test_report import make
from trainables.object_store import link
from trainables.trial_files import PREDICTIONS, trial_folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    """A search of 12 trials, with what looks like a checkpoint of 100 kB for each, and a job of two trials."""
    folder = tmp_path_factory.mktemp("pruning")
    write_digits(folder / "secret-folder", 150)
    found = make(folder, 12, name="found")
    for trial in found.study().trials:
        checkpoint(trial_folder(found.path, trial.number))
        (trial_folder(found.path, trial.number) / PREDICTIONS).write_bytes(b"predictions")
    checkpoint(trial_folder(found.path, 0) / "fold-2")
    checkpoint(found.path / "jobs" / "job-00001")
    return found


def checkpoint(folder: Path) -> None:
    path = folder / "checkpoints" / "epoch-0004"
    path.mkdir(parents=True)
    (path / "tensors.safetensors").write_bytes(b"x" * 100_000)


@pytest.fixture
def found(recorded: SearchFolder, tmp_path: Path) -> SearchFolder:
    shutil.copytree(recorded.path, tmp_path / "found")
    return SearchFolder(tmp_path / "found")


def left(found: SearchFolder) -> set[int]:
    return {int(p.parts[-3]) for p in found.path.glob("trials/*/checkpoints/epoch-*")}


def test_the_best_and_the_unfinished_stay(found: SearchFolder) -> None:
    study = found.study()
    best = [t.number for t in ranked(study.trials, "maximize")[:2]]
    unfinished = [t.number for t in study.trials if t.state is State.RUNNING]
    pruned = prune(found, top=2)
    assert left(found) == {*best, *unfinished} == set(pruned.kept) and unfinished
    assert pruned.freed >= 100_000 * len(pruned.folders)
    assert all((trial_folder(found.path, t.number) / PREDICTIONS).is_file() for t in study.trials)
    assert not list(found.path.glob("trials/00000/fold-2/checkpoints")) or 0 in pruned.kept
    assert not (found.path / "jobs/job-00001/checkpoints").exists() or 1 in pruned.kept
    assert found.study().trials == study.trials
    again = prune(found, top=2)
    assert again.freed == 0 and not again.folders


def test_a_dry_run_says_the_same_and_deletes_nothing(found: SearchFolder) -> None:
    before = left(found)
    said = prune(found, top=0, dry_run=True)
    assert left(found) == before
    assert prune(found, top=0).freed == said.freed > 0


def test_what_a_final_was_made_of_stays(found: SearchFolder) -> None:
    worst = ranked(found.study().trials, "maximize")[-1].number
    folder = found.path / "final"
    folder.mkdir()
    own = {"name": "x", "backbone": "mae_tiny", "found": {"search": "found", "trial": worst}, "seeds": []}
    result = {"format": 1, "counts": {"test": {"0": 1}}, "configurations": [own]}
    (folder / "result.json").write_text(json.dumps(result))
    assert worst in prune(found, top=1).kept and worst in left(found)


def test_a_running_search_is_left_alone(found: SearchFolder) -> None:
    before = left(found)
    with only_writer(found.path), pytest.raises(Mistake, match="is being run"):
        prune(found, top=1)
    assert left(found) == before
    with pytest.raises(Mistake, match="--top -1"):
        prune(found, top=-1)


def test_a_report_needs_no_checkpoint(found: SearchFolder, tmp_path: Path) -> None:
    succeed("prune", found.path, "--top", 0)
    assert report([found], tmp_path / "r.md").is_file()


def test_the_command(found: SearchFolder) -> None:
    dry = succeed("prune", found.path, "--dry-run")
    assert "would be freed" in dry and "number 1 on validation" in dry and "unfinished" in dry
    freed = dry.split(" would be freed")[0].splitlines()[-1]
    assert f"{freed} freed: the checkpoints of 11 trials and jobs." in succeed("prune", found.path)


def test_what_lies_in_an_object_store_goes_too(found: SearchFolder, tmp_path: Path) -> None:
    worst = ranked(found.study().trials, "maximize")[-1].number
    place, store = trial_folder(found.path, worst) / "checkpoints", tmp_path / "store"
    (place / "epoch-0004").rename(store)
    place.rmdir()
    link(place, f"file://{store}")
    assert prune(found, top=1, dry_run=True).freed >= 100_000 and place.is_file()
    prune(found, top=1)
    assert not place.exists() and not store.exists()
