"""The best value corrected for the choice, from what real trials keep: the very quantity that their values are."""

from typing import Any

import pytest
import torch

from search.folder import SearchFolder
from search.optimism import corrected_value, corrections
from search.record import Trial
from spaces.library import trial_config
from tests.search.conftest import write_digits
from tests.search.finals import search_of
from trainables.influence import FILE
from trainables.selection import Corrected
from trainables.trial_files import trial_folder
from trainables.trials import run


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchFolder, list[Trial]]:
    """Two real trials of four epochs, one by itself and one in a group, and their record with their own values."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("optimism")
    write_digits(folder / "images", 200)
    found = search_of(folder, budget={"trials": 2, "epochs": 4}, classes_averaged=["0", "1", "2", "3", "4"])
    config, trials = found.config(), found.study().trials
    messages: list[dict[str, Any]] = []
    for trial in trials:
        of_trial = trial_config(config, trial.point, metric=str(config.metric), policy="digits", seed=trial.seed)
        order = {
            "job": trial.job, "trials": [{"number": trial.number, "config": of_trial.plain()}],
            "search": str(found.path), "dataset": config.dataset.plain(), "cache": str(folder / "cache"),
            "activations": 0, "threads": 1, "accelerators": 0, "hang": 600.0,
        }  # fmt: skip
        if trial.number == 1:
            (found.path / "jobs" / trial.job).mkdir(parents=True)  # as of a group of which one is left
        run(order, messages.extend)
    for message in messages:
        if "end" in message:
            trials[message["trial"]].value = message["end"]["value"]
    return found, trials


def test_what_is_corrected_is_what_trials_are_valued_by(told: tuple[SearchFolder, list[Trial]]) -> None:
    found, trials = told
    corrected = corrected_value(found.path, trials, "macro_auroc", range(5))
    assert isinstance(corrected, Corrected) and corrected.trials == 2
    values = [trial.value for trial in trials]
    assert corrected.found == pytest.approx(max(v for v in values if v is not None), abs=1e-9)
    assert values[corrected.best] == max(v for v in values if v is not None)


def test_each_is_corrected_for_what_it_was_chosen_from(told: tuple[SearchFolder, list[Trial]]) -> None:
    found, trials = told
    winner = max(trials, key=lambda t: t.value or 0).number
    of_all = corrections(found.path, trials, "maximize", "macro_auroc", [0, 1], range(5))
    assert isinstance(of_all[winner], Corrected)
    alone = "there are fewer than two complete trials of its backbone, whose best it was"
    assert of_all[1 - winner] == alone, "the best of one of its backbone, though there are two trials"
    again = [*trials, Trial(2, dict(trials[winner].point), 0, "j", 0.0, state=trials[0].state, value=0.0)]
    assert "neither of all trials" in str(corrections(found.path, again, "maximize", "macro_auroc", [2])[2])


def test_every_trial_keeps_what_a_paired_comparison_needs(told: tuple[SearchFolder, list[Trial]]) -> None:
    found, trials = told
    assert all((trial_folder(found.path, trial.number) / FILE).is_file() for trial in trials)
