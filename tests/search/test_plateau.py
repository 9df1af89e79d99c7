"""A search that has stopped getting better starts no more trials."""

from pathlib import Path

from search.plateau import since_better
from search.record import State, Trial
from spaces.config import BudgetConfig, ComparisonConfig
from tests.search.test_scheduler import CONFIG, driver, finish


def ended(number: int, value: float | None, state: State = State.COMPLETE, at: float | None = None) -> Trial:
    when = float(number) if at is None else at
    return Trial(number, {}, 0, "", 0.0, state=state, value=value, ended=when)


def test_trials_since_the_last_better_one() -> None:
    trials = [ended(0, 0.5), ended(1, 0.6), ended(2, 0.6), ended(3, None, State.PRUNED), ended(4, 0.55)]
    assert since_better(trials, "maximize") == 3
    assert since_better(trials, "minimize") == 4
    assert since_better([*trials, ended(5, 0.61)], "maximize") == 0
    assert since_better([*trials, ended(5, 0.61)], "maximize", margin=0.02) == 4, "no difference that matters"
    assert since_better([ended(0, 0.5), ended(1, 0.6, at=-1.0)], "maximize") == 1, "in the order of their ends"
    assert since_better([ended(0, None, State.PRUNED), ended(1, None, State.PRUNED)], "maximize") == 0
    unsaid = [ended(1, None, State.FAILED), ended(2, None, State.CANCELLED), Trial(3, {}, 0, "", 0.0)]
    assert since_better([ended(0, 0.5), *unsaid], "maximize") == 0


def test_no_more_trials_are_started_and_a_resume_may_want_more(tmp_path: Path) -> None:
    budget = BudgetConfig(trials=10, epochs=8, plateau=2)
    config = CONFIG.model_copy(update={"budget": budget, "comparison": ComparisonConfig(margin=0.05)})
    one = driver(tmp_path, config)
    jobs = [one.next_job() for _ in range(4)]
    for job, value in zip(jobs[:3], (0.5, 0.6, 0.62), strict=True):
        finish(one, job, value)
    again = driver(tmp_path, config)
    assert again.next_job() == jobs[3], "what was started goes on"
    finish(again, jobs[3], 0.64)
    assert again.next_job() is None and len(again.study.trials) == 4
    assert again.ending is not None and again.ending.public == again.ending.text
    assert "none of the last 2 trials was better by more than 0.05" in again.ending.text
    assert "budget.plateau" in again.ending.text
    more = config.model_copy(update={"budget": budget.model_copy(update={"plateau": 3})})
    assert driver(tmp_path, more).next_job() is not None
