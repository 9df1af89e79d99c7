"""Storage that isn't there isn't a trial's fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from search import folder as folders
from search.identity import identity
from search.plan import plan
from search.record import State
from search.settings import load
from spaces.mistakes import Mistake
from tests.search.conftest import SETTINGS, write_digits
from tests.search.test_scheduler import driver, epoch


def test_a_trial_whose_files_are_away_is_left_to_a_resume(tmp_path: Path) -> None:
    """Also where others were complete before: the search ends with a sentence, and a resume gives the trial again."""
    drives = driver(tmp_path)
    drives.next_job(), drives.next_job()
    drives.told([epoch(0, 8, 0.9), {"trial": 0, "end": {"state": "complete", "cause": "", "value": 0.9}}], [0])
    end = {"state": "failed", "cause": "OSError: [Errno 5] Input/output error: '/store/1'", "value": None}
    with pytest.raises(Mistake, match=r"storage: no access to files that trial 1 needs \(OSError.*medtune resume a"):
        drives.told([{"trial": 1, "end": end}], [1])
    states = [trial.state for trial in driver(tmp_path).study.trials]
    assert states == [State.COMPLETE, State.RUNNING]
    assert driver(tmp_path).next_job() == {"trials": [{"number": 1}]}


def test_what_a_search_keeps_of_its_data_is_written_again(tmp_path: Path) -> None:
    """Where it was damaged or lost; where it is whole it stays as it is."""
    write_digits(tmp_path / "images", 100)
    (tmp_path / "search.yaml").write_text(SETTINGS.replace("STORAGE", str(tmp_path / "runs")))
    planned = plan(load(tmp_path / "search.yaml"), tmp_path)
    found = folders.create(planned, identity(planned))
    kept = {file.name: file.read_bytes() for file in (found.path / folders.DATA).iterdir()}
    assert not folders.mend_data(found, planned.prepared)
    for name, data in kept.items():
        file = found.path / folders.DATA / name
        for damaged in (data[: len(data) // 2], b"", data.replace(b"1", b"2", 1)):
            file.write_bytes(damaged)
            assert folders.mend_data(found, planned.prepared), name
            assert found.prepared().digests == planned.prepared.digests
        file.unlink()
        assert folders.mend_data(found, planned.prepared) and not folders.mend_data(found, planned.prepared)


def test_a_search_that_did_not_begin_leaves_no_record_in_a_database(tmp_path: Path) -> None:
    write_digits(tmp_path / "images", 100)
    (tmp_path / "search.yaml").write_text(SETTINGS.replace("STORAGE", str(tmp_path / "runs")))
    config = load(tmp_path / "search.yaml", [f"study=sqlite:///{tmp_path / 'record.db'}"])
    planned = plan(config, tmp_path)
    found = folders.create(planned, identity(planned))
    assert folders.taken(config)
    folders.discard_empty(found)
    assert not found.path.exists() and folders.taken(config) is None


def test_a_storage_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(SETTINGS.replace("STORAGE", "s3://bucket/medtune"))
    with pytest.raises(Mistake, match="storage: should be a folder.*checkpoints: s3://bucket/folder"):
        load(tmp_path / "search.yaml")
