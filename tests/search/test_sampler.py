"""What to try next: from the record, never the same point twice, the same after a resume."""

import pytest

from search.record import Epoch, State, Trial
from search.sampler import Exhausted, Sampler
from spaces.config import SearchConfig
from spaces.dimensions import Choice, Float, Point, Space
from spaces.library import assemble

CONFIG = SearchConfig.parse(
    {
        "name": "a",
        "dataset": {"reader": "folder", "root": "x"},
        "backbones": ["dinov2_tiny", "mae_tiny"],
        "weights": "random",
    },
    "s",
)
SPACE = assemble(CONFIG)
LINE = Space(dimensions=(Float(name="head_lr", low=1e-4, high=1.0, log=True),))


def run(sampler: Sampler, trials: list[Trial], count: int, value: object = lambda point: 0.5) -> list[Point]:
    points = []
    for _ in range(count):
        point = sampler.ask(len(trials))
        trial = Trial(len(trials), point, 0, "j", 0.0)
        trials.append(trial)
        trial.state, trial.value = State.COMPLETE, value(point)  # type: ignore[operator]
        trial.epochs = {1: Epoch(1, trial.value or 0.0, None, 1.0, {}, 1.0, 0.0)}
        sampler.end(trial)
        points.append(point)
    return points


def sampler(trials: list[Trial], space: Space = SPACE, kind: str = "tpe") -> Sampler:
    return Sampler(space, "maximize", 3, kind, trials)


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_resumed_search_asks_what_it_would_have_asked(kind: str) -> None:
    undisturbed: list[Trial] = []
    points = run(sampler(undisturbed, kind=kind), undisturbed, 16)
    trials: list[Trial] = []
    run(sampler(trials, kind=kind), trials, 12)
    assert run(sampler(trials, kind=kind), trials, 4) == points[12:]
    assert len({str(p) for p in points}) == 16


def test_no_point_twice_and_an_end() -> None:
    small = Space(dimensions=(Choice(name="level", choices=(0, 1)), Choice(name="ema", choices=(0.0, 0.1))))
    trials: list[Trial] = []
    asker = sampler(trials, small)
    with pytest.raises(Exhausted):
        run(asker, trials, 5)
    assert len({str(t.point) for t in trials}) == len(trials) == 4


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_finite_space_is_tried_to_its_last_point(kind: str) -> None:
    grid = Space(
        dimensions=(Choice(name="level", choices=tuple(range(6))), Choice(name="batch_size", choices=tuple(range(6))))
    )
    trials: list[Trial] = []
    asker = sampler(trials, grid, kind)
    with pytest.raises(Exhausted):
        run(asker, trials, 37, lambda point: -float(point["level"]))
    assert len({str(t.point) for t in trials}) == len(trials) == 36


def test_it_learns() -> None:
    """The last of 40 asks lie nearer to the best learning rate than the first, at random, do."""
    trials: list[Trial] = []

    def quality(point: Point) -> float:
        import math

        return -abs(math.log10(float(point["head_lr"])) + 2)

    points = run(sampler(trials, LINE), trials, 40, quality)
    near = [abs(quality(p)) for p in points]
    assert sum(near[-15:]) / 15 < 0.5 * sum(near[:10]) / 10


def test_failed_and_pruned_trials_are_told() -> None:
    trials: list[Trial] = []
    asker = sampler(trials, LINE)
    for state in (State.FAILED, State.PRUNED, State.INFEASIBLE, State.CANCELLED):
        trial = Trial(len(trials), asker.ask(len(trials)), 0, "j", 0.0, state=state)
        trial.epochs = {1: Epoch(1, 0.4, None, 1.0, {}, 1.0, 0.0)}
        trials.append(trial)
        asker.end(trial)
    run(asker, trials, 12)
    assert len(sampler(trials, LINE).ask(len(trials))) == 1
