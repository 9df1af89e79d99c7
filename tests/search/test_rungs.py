"""Who goes on: decided from the record alone."""

from search.record import Epoch, State, Trial
from search.rungs import decide, rung_epochs
from spaces.config import StoppingConfig

HALVING = StoppingConfig()


def trial(
    number: int, values: list[float], blocks: int | str = 0, state: State = State.RUNNING, error: float | None = 0.0
) -> Trial:
    epochs = {i + 1: Epoch(i + 1, v, error, 1.0, {}, 1.0, 0.0) for i, v in enumerate(values)}
    return Trial(number, {"trained_blocks": blocks}, 0, "j", 0.0, state=state, epochs=epochs)


def goes_on(
    trials: list[Trial], number: int, epoch: int = 2, direction: str = "maximize", stopping: StoppingConfig = HALVING
) -> bool:
    return decide(trials, number, epoch, epochs=8, stopping=stopping, direction=direction).go_on  # type: ignore[arg-type]


def test_rungs_leave_a_quarter_and_the_end_alone() -> None:
    assert rung_epochs(30, HALVING) == (8, 16)
    assert rung_epochs(12, HALVING) == (3, 6)
    assert rung_epochs(1, HALVING) == ()
    assert rung_epochs(8, StoppingConfig(eta=4, grace=0.125)) == (1, 4)
    assert rung_epochs(8, StoppingConfig(rule="off")) == ()


def test_the_better_half_goes_on() -> None:
    trials = [trial(i, [v, v]) for i, v in enumerate([0.9, 0.8, 0.7, 0.6])]
    assert [goes_on(trials, i) for i in range(4)] == [True, True, False, False]
    assert [goes_on(trials, i, direction="minimize") for i in range(4)] == [False, False, True, True]


def test_nothing_is_decided_between_rungs_or_when_off() -> None:
    trials = [trial(0, [0.9] * 3), trial(1, [0.1] * 3)]
    assert goes_on(trials, 1, epoch=3)
    assert goes_on(trials, 1, stopping=StoppingConfig(rule="off"))
    assert not goes_on(trials, 1, epoch=2)


def test_the_first_to_arrive_goes_on() -> None:
    assert goes_on([trial(0, [0.1, 0.1]), trial(1, [0.9])], 0)


def test_depths_are_not_compared() -> None:
    trials = [trial(0, [0.9, 0.9], blocks=0), trial(1, [0.2, 0.2], blocks="all"), trial(2, [0.1, 0.1], blocks=0)]
    assert goes_on(trials, 1) and not goes_on(trials, 2)


def test_a_gap_within_noise_is_no_reason() -> None:
    assert not goes_on([trial(0, [0.9, 0.9]), trial(1, [0.88, 0.88])], 1)
    assert goes_on([trial(0, [0.9, 0.9], error=0.05), trial(1, [0.88, 0.88])], 1)


def test_scores_are_smoothed() -> None:
    lucky, steady = [0.1, 0.1, 0.1, 0.85], [0.8, 0.8, 0.8, 0.8]
    assert not goes_on([trial(0, steady), trial(1, lucky)], 1, epoch=4)


def test_failed_trials_say_nothing() -> None:
    trials = [trial(0, [0.99, 0.99], state=State.FAILED), trial(1, [0.5, 0.5])]
    assert goes_on(trials, 1)


def test_pruned_and_complete_ones_stay_in_the_comparison() -> None:
    trials = [
        trial(0, [0.9, 0.9], state=State.COMPLETE),
        trial(1, [0.8, 0.8], state=State.PRUNED),
        trial(2, [0.7, 0.7]),
    ]
    assert not goes_on(trials, 2)


def test_the_cause_gives_figures() -> None:
    trials = [trial(0, [0.9, 0.9]), trial(1, [0.5, 0.5])]
    cause = decide(trials, 1, 2, epochs=8, stopping=HALVING, direction="maximize").cause
    assert "0.5000" in cause and "0.9000" in cause and "epoch 2" in cause


def test_an_undefined_metric_is_worse_than_any() -> None:
    nothing = trial(1, [])
    nothing.epochs = {e: Epoch(e, None, None, 1.0, {}, 1.0, 0.0) for e in (1, 2)}
    others = [trial(0, [0.1, 0.1]), nothing]
    assert not goes_on(others, 1) and goes_on(others, 0)
    assert "not defined" in decide(others, 1, 2, epochs=8, stopping=HALVING, direction="maximize").cause


def test_folds_are_judged_whole() -> None:
    assert rung_epochs(4, HALVING, folds=3) == (4, 8)
    assert rung_epochs(4, StoppingConfig(rule="off"), folds=3) == ()

    def judged(number: int, epoch: int, trials: list[Trial]) -> bool:
        return decide(trials, number, epoch, epochs=4, stopping=HALVING, direction="maximize", folds=3).go_on

    luck_at_first = trial(0, [0.1, 0.9, 0.9, 0.9, 0.1, 0.5, 0.5, 0.5])
    steady = trial(1, [0.1, 0.8, 0.8, 0.8, 0.1, 0.8, 0.8, 0.8])
    assert not judged(1, 4, [luck_at_first, steady]) and judged(0, 4, [luck_at_first, steady])
    assert judged(1, 8, [luck_at_first, steady]) and not judged(0, 8, [luck_at_first, steady]), "the mean over folds"
    assert judged(0, 6, [luck_at_first, steady]), "nothing is decided within a fold"
