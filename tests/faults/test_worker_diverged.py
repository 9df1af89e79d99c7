"""A loss that is infinite or not a number: failed with the step, never best, not tried again, and the sampler knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.folder import SearchFolder
from search.record import State, best
from search.study import open_storage
from tests.faults.elsewhere import given
from tests.faults.worker import run, struck_pids

DIVERGED = 5  # of the struck search


def test_the_cause_names_the_step_and_the_trial_is_not_trained_again(
    order: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Passes if a diverging trial is told as failed, once, with its step and no value, raises nothing, and if its job,
    ordered again, tells the same without training."""
    job = order(head_lr=1e20, warmup=0.0)
    told = given(lambda: run(job), tmp_path / "told")
    assert [message["end"]["state"] for message in told] == ["failed"] and told[0]["end"]["value"] is None
    assert told[0]["end"]["cause"] == "the loss was nan at step 2"
    (Path(job["search"]) / "trials" / "00000" / "config.json").unlink()
    assert given(lambda: run(job), tmp_path / "again") == told
    assert not (Path(job["search"]) / "trials" / "00000" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_in_a_search(struck: Path) -> None:
    """Passes if, in a real search, the diverged trial is failed with its step, ran once, isn't the best, and stands in
    the sampler's study as failed without a value."""
    found = SearchFolder(struck)
    trial = found.study().trials[DIVERGED]
    assert trial.state is State.FAILED and trial.cause.startswith("the loss was") and "at step" in trial.cause
    assert trial.value is None and not trial.epochs
    assert [number for number, _ in struck_pids(struck)].count(DIVERGED) == 1
    chosen = best(found.study().trials, "maximize")
    assert chosen is not None and chosen.number != DIVERGED and chosen.value is not None
    study = optuna.load_study(study_name="struck", storage=open_storage(struck, None))
    [seen] = [t for t in study.trials if t.number == DIVERGED]
    assert seen.state is optuna.trial.TrialState.FAIL and seen.values is None
    assert study.best_trial.number == chosen.number
