"""Random spaces, asked by the real sampler: every point lies in its bounds and its conditions, and none comes twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search.record import Epoch, State, Trial
from search.sampler import Exhausted, Sampler
from spaces.dimensions import AnyDimension, Choice, Condition, Float, Int, Point, Space, Value

CHOICES: list[list[Value]] = [["a", "b", "c"], [0, 1, 2], [True, False], [0.1, 0.2], [32, "all"]]
ENDS = (State.COMPLETE, State.COMPLETE, State.PRUNED, State.FAILED, State.CANCELLED, State.INFEASIBLE)


@st.composite
def dimensions(draw: Any, index: int, before: list[Choice]) -> AnyDimension:
    more: dict[str, Any] = {"name": f"d{index}"}
    if before and draw(st.booleans()):
        on = draw(st.sampled_from(before))
        some = tuple(draw(st.lists(st.sampled_from(on.choices), min_size=1, unique=True)))
        field = draw(st.sampled_from(["among", "excluding"]))
        more["when"] = {on.name: Condition.model_validate({field: some})}
        more["scope"] = draw(st.sampled_from(["", "x"]))
    kind = draw(st.sampled_from(["float", "int", "choice", "choice"]))
    if kind == "choice":
        return Choice(choices=tuple(draw(st.sampled_from(CHOICES))), **more)
    log = draw(st.booleans())
    if kind == "int":
        low = draw(st.integers(1, 5))
        return Int(low=low, high=low + draw(st.integers(1, 60)), log=log, **more)
    low = draw(st.floats(1e-6, 1))
    return Float(low=low, high=low * draw(st.floats(1.5, 1e4)), log=log, **more)


@st.composite
def spaces(draw: Any) -> Space:
    made: list[AnyDimension] = []
    for index in range(draw(st.integers(1, 6))):
        made.append(draw(dimensions(index, [d for d in made if isinstance(d, Choice)])))
        if made[-1].scope:  # the general one, asked where the scoped one didn't apply
            made.append(Choice(name=made[-1].name, choices=(7, 8)))
    fixed = {"f": 1} if draw(st.booleans()) else {}
    return Space(dimensions=tuple(made), fixed=fixed)


@pytest.mark.parametrize("kind", ["tpe", "random"])
@settings(max_examples=20, deadline=None, database=None)
@given(space=spaces(), seed=st.integers(0, 2**31), data=st.data())
def test_points_lie_in_the_space(kind: str, space: Space, seed: int, data: Any) -> None:
    """Through startup and modelling, whatever becomes of trials: in bounds, under its conditions, never twice."""
    trials: list[Trial] = []
    sampler = Sampler(space, "maximize", seed, kind, trials)
    points: list[Point] = []
    for number in range(14):
        try:
            point = sampler.ask(number)
        except Exhausted:
            assert {_key(p) for p in space.every()} <= {_key(p) for p in points}, "only where nothing is left"
            break
        check(space, point)
        points.append(point)
        trial = Trial(number, point, 0, "j", 0.0, state=data.draw(st.sampled_from(ENDS)))
        value = data.draw(st.floats(-1, 1))
        trial.epochs = {1: Epoch(1, value, None, 1.0, {}, 1.0, 0.0)}
        trial.value = value if trial.state is State.COMPLETE else None
        trials.append(trial)
        sampler.end(trial)
    assert len({_key(p) for p in points}) == len(points)


@settings(max_examples=100, deadline=None, database=None)
@given(space=spaces(), data=st.data())
def test_wishes_are_completed_or_refused(space: Space, data: Any) -> None:
    """Part of a point, if nothing is wrong with it, stands in its completion, which lies in the space."""
    named = data.draw(st.lists(st.sampled_from(space.dimensions), max_size=3, unique_by=lambda d: d.name))
    wish = {d.name: d.start for d in named}
    check(space, space.complete({}))
    assume(not space.problems(wish))
    point = space.complete(wish)
    check(space, point)
    assert {name: point[name] for name in wish} == wish


def check(space: Space, point: Point) -> None:
    asked = space.asked(point)
    assert len({d.name for d in asked}) == len(asked)
    assert {d.name for d in asked} | set(space.fixed) == set(point)
    for dimension in asked:
        assert dimension.contains(point[dimension.name]), (dimension, point)
        assert all(condition.holds(point.get(name)) for name, condition in dimension.when.items())
    for dimension in space.dimensions:  # and nothing that applies was left out
        assert dimension.name in point or not dimension.applies(point)
    assert not space.problems({d.name: point[d.name] for d in asked})


def _key(point: Point) -> frozenset[tuple[str, str]]:
    return frozenset((name, str(value)) for name, value in point.items())
