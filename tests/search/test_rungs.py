"""Who goes on: decided from the record, and how sure a difference is from what trials kept of their epochs."""

import time
from pathlib import Path

import numpy as np
import pytest

from search.record import Epoch, State, Trial
from search.rungs import Decision, Rungs, decide, rung_epochs
from spaces.config import StoppingConfig
from trainables.influence import TEMPERED, keep
from trainables.trial_files import fold_folder, trial_folder

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


def test_the_standard_error_over_folds_is_that_of_their_mean() -> None:
    one = trial(0, [0.9] * 8)
    errors = {4: 0.3, 8: 0.4}
    one.epochs = {e: Epoch(e, 0.9, errors.get(e, 9.0), 1.0, {}, 1.0, 0.0) for e in range(1, 9)}
    assert one.standard_error(4) == pytest.approx(0.25), "half the root of .3 squared and .4 squared"
    assert one.standard_error(4, up_to=4) == 0.3 and one.standard_error(8) == 0.4
    assert one.standard_error(4, up_to=7) == 0.3, "of the folds that are complete"
    assert one.standard_error(20) == 0.4, "within the first fold, the last epoch's"
    one.epochs[4] = Epoch(4, None, None, 1.0, {}, 1.0, 0.0)
    assert one.standard_error(4) is None and trial(1, []).standard_error(4) is None


def test_unpaired_folds_are_judged_by_the_error_of_their_mean() -> None:
    """A gap of .04 between means over two folds whose errors are .05 each: more than .035."""

    def after(epoch: int) -> bool:
        trials = [trial(0, [0.9] * 8, error=0.05), trial(1, [0.86] * 8, error=0.05)]
        return decide(trials, 1, epoch, epochs=4, stopping=HALVING, direction="maximize", folds=3).go_on

    assert after(4) and not after(8)


RNG = np.random.default_rng(0)
COMMON = RNG.normal(size=500)
"""What each of 500 groups does to every trial's score: most of what varies cancels out between two trials."""


def kept(search: Path, number: int, own: float, epochs: int = 8, fold: int = 0, folds: int = 1) -> None:
    """What a trial keeps whose score differs from others' by `own` standard deviations a group. The standard error of
    two trials' difference is about .063 times `own`."""
    folder = fold_folder(trial_folder(search, number), fold, folds)
    for epoch in range(1, epochs + 1):
        moved = COMMON + own * np.random.default_rng([number, fold]).normal(size=500)
        keep(folder, epoch, epochs, np.stack([moved, moved]))


def with_log_loss(number: int, values: list[float], losses: list[float], **point: object) -> Trial:
    made = trial(number, values, error=0.5)
    made.point |= point  # type: ignore[arg-type]
    for epoch, loss in zip(made.epochs.values(), losses, strict=True):
        epoch.metrics[TEMPERED] = loss
    return made


def judged(trials: list[Trial], search: Path | None, number: int = 1, epoch: int = 2) -> Decision:
    return decide(trials, number, epoch, epochs=8, stopping=HALVING, direction="maximize", search=search)


def test_the_standard_error_is_paired_where_it_can_be(tmp_path: Path) -> None:
    trials = [trial(0, [0.9, 0.9], error=0.05), trial(1, [0.88, 0.88], error=0.05)]
    assert judged(trials, tmp_path).go_on, "nothing was kept: within the metric's own standard error"
    kept(tmp_path, 0, own=0.1)
    kept(tmp_path, 1, own=0.1)
    decision = judged(trials, tmp_path)
    assert not decision.go_on and "a paired standard error of 0.00" in decision.cause
    kept(tmp_path, 1, own=1)
    assert judged(trials, tmp_path).go_on, "a gap of .02 is less than the paired standard error"


def test_the_log_loss_decides_where_all_have_one(tmp_path: Path) -> None:
    trials = [with_log_loss(0, [0.8, 0.8], [0.5, 0.5]), with_log_loss(1, [0.9, 0.9], [0.7, 0.7])]
    for number in (0, 1):
        kept(tmp_path, number, own=0.1)
    decision = judged(trials, tmp_path)
    assert not decision.go_on and "its log loss was 0.7000" in decision.cause and "had 0.5000" in decision.cause
    assert judged(trials, tmp_path, number=0).go_on
    assert judged(trials, None).go_on, "by the metric, which is all that the record says of its error"
    worse = [*trials, trial(2, [0.1, 0.1], error=0.0)]  # without a log loss
    assert judged(worse, tmp_path).go_on and not judged(worse, tmp_path, number=2).go_on


@pytest.mark.parametrize(
    ("name", "value"), [("loss", "ordinal"), ("class_weights", "inverse"), ("sampling", "balanced")]
)
def test_log_losses_for_other_frequencies_are_not_compared(tmp_path: Path, name: str, value: str) -> None:
    trials = [with_log_loss(0, [0.8, 0.8], [0.5, 0.5]), with_log_loss(1, [0.9, 0.9], [0.7, 0.7], **{name: value})]
    for number in (0, 1):
        kept(tmp_path, number, own=0.1)
    assert judged(trials, tmp_path).go_on
    assert not judged(trials, tmp_path, number=0).go_on and "its score" in judged(trials, tmp_path, number=0).cause


def test_without_its_error_the_log_loss_does_not_decide(tmp_path: Path) -> None:
    trials = [with_log_loss(0, [0.8, 0.8], [0.5, 0.5]), with_log_loss(1, [0.1, 0.1], [0.7, 0.7])]
    decision = judged(trials, tmp_path)
    assert not decision.go_on and "its score was 0.1000" in decision.cause and "paired" not in decision.cause


def test_the_error_over_folds_is_that_of_their_mean(tmp_path: Path) -> None:
    trials = [trial(0, [0.9] * 8, error=0.5), trial(1, [0.87] * 8, error=0.5)]
    for number in (0, 1):
        for fold in (0, 1):
            kept(tmp_path, number, own=0.6, epochs=4, fold=fold, folds=3)

    def after(epoch: int) -> bool:
        return decide(
            trials, 1, epoch, epochs=4, stopping=HALVING, direction="maximize", folds=3, search=tmp_path
        ).go_on

    assert after(4), "one fold: .03 is less than .038"
    assert not after(8), "two folds: it is more than .027"


def test_a_decision_costs_the_driver_little(tmp_path: Path) -> None:
    trials = [with_log_loss(i, [0.8, 0.8], [0.5 + 0.01 * i] * 2) for i in range(200)]
    for folder in (trial_folder(tmp_path, 199), trial_folder(tmp_path, 99)):
        keep(folder, 1, 30, RNG.normal(size=(2, 10_000)))
        keep(folder, 2, 30, RNG.normal(size=(2, 10_000)))
    judged(trials, tmp_path, number=199)
    started = time.process_time()
    for _ in range(20):
        assert not judged(trials, tmp_path, number=199).go_on
    assert (time.process_time() - started) / 20 < 0.05  # about 1 ms


def test_a_decision_costs_no_more_among_ten_thousand_trials() -> None:
    """Taking a trial in at a rung and judging it: what is kept sorted isn't looked at again."""
    generator, live = np.random.default_rng(0), Rungs([], epochs=30, stopping=HALVING, direction="maximize")
    took = []
    for number, value in enumerate(generator.random(10_000)):
        one = with_log_loss(number, [value] * 8, [1 - value] * 8)
        started = time.perf_counter()
        live.reached(one, 8)
        live.decide(one, 8)
        took.append(time.perf_counter() - started)
    first, last = np.median(took[:200]), np.median(took[-200:])
    print(f"a report's comparison at a rung: {1e6 * first:.0f} us at first, {1e6 * last:.0f} us among 10,000 trials")
    assert last < 5 * first
