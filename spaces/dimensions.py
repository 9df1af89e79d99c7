"""Dimensions of a search space (`Float`, `Int`, `Choice`) and the conditions between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from pydantic import Field, model_validator

from spaces.strict import Strict

Value = bool | int | float | str
Point = dict[str, Value]


class Condition(Strict):
    """When a dimension is asked: the value of another, asked before it, is (or is not) among some."""

    among: tuple[Value, ...] = ()
    excluding: tuple[Value, ...] = ()

    def holds(self, value: Value | None) -> bool:
        if self.among and value not in self.among:
            return False
        return value is not None and value not in self.excluding


class Dimension(Strict):
    """What all dimensions share. `name` is the field of TrialConfig; `key` names it in the record.

    Where some trials have a range of their own for a name (a family of backbones, a head), that range is a dimension
    with a scope and a key of its own (`layer_decay@mae`), since a sampler takes values under one key as comparable.
    Scoped dimensions stand before the general one, which is asked only where none of them applied.
    """

    name: str
    scope: str = ""
    when: dict[str, Condition] = {}

    @property
    def key(self) -> str:
        return f"{self.name}@{self.scope}" if self.scope else self.name

    def definition(self) -> dict[str, Any]:
        """As settings define it: `{float: [0.0001, 0.1], log: true}`, with its default where it has one."""
        settings = self.plain()
        of_all = {"name", "scope", "when", "low", "high", "choices"} | ({"log"} if not settings.get("log") else set())
        if "choices" in settings:
            kind: dict[str, Any] = {"choice": settings["choices"]}
        else:
            kind = {type(self).__name__.lower(): [settings["low"], settings["high"]]}
        return kind | {key: value for key, value in settings.items() if key not in of_all and value is not None}

    def applies(self, point: Mapping[str, Value]) -> bool:
        """Whether it is asked, given the values that were asked before it."""
        return all(condition.holds(point.get(name)) for name, condition in self.when.items())


class Float(Dimension):
    low: float
    high: float
    log: bool = False
    default: float | None = None

    @model_validator(mode="after")
    def _valid(self) -> Float:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"needs finite bounds with low < high, found [{self.low}, {self.high}]")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low > 0, found {self.low}")
        if self.default is not None and not self.low <= self.default <= self.high:
            raise ValueError(f"default {self.default} lies outside [{self.low}, {self.high}]")
        return self

    @property
    def start(self) -> float:
        """The default, or the middle of the range on its own scale."""
        if self.default is not None:
            return self.default
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2

    def contains(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def describe(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (" (log)" if self.log else "")


class Int(Dimension):
    low: int
    high: int
    log: bool = False
    default: int | None = None

    @model_validator(mode="after")
    def _valid(self) -> Int:
        if self.low >= self.high or (self.log and self.low < 1):
            raise ValueError(f"needs low < high, and low > 0 on a log scale, found [{self.low}, {self.high}]")
        if self.default is not None and not self.low <= self.default <= self.high:
            raise ValueError(f"default {self.default} lies outside [{self.low}, {self.high}]")
        return self

    @property
    def start(self) -> int:
        if self.default is not None:
            return self.default
        return round(math.sqrt(self.low * self.high)) if self.log else (self.low + self.high) // 2

    def contains(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def describe(self) -> str:
        return f"{self.low} to {self.high}" + (" (log)" if self.log else "")


class Choice(Dimension):
    choices: tuple[Value, ...] = Field(min_length=1)
    default: Value | None = None

    @model_validator(mode="after")
    def _valid(self) -> Choice:
        if len({(type(c).__name__, c) for c in self.choices}) != len(self.choices):
            raise ValueError(f"a choice stands twice in {list(self.choices)}")
        if self.default is not None and not self.contains(self.default):
            raise ValueError(f"default {self.default!r} is not among {list(self.choices)}")
        return self

    @property
    def start(self) -> Value:
        return self.choices[0] if self.default is None else self.default

    def contains(self, value: Any) -> bool:
        return any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in self.choices)

    def describe(self) -> str:
        return ", ".join(str(c) for c in self.choices)


AnyDimension = Float | Int | Choice


class Suggest(Protocol):
    """Gives a value for a dimension: a sampler, a default, or a person's own configuration."""

    def __call__(self, dimension: AnyDimension) -> Value: ...


class Space(Strict):
    """Dimensions in the order in which they are asked, values that are fixed, and configurations to try first."""

    dimensions: tuple[AnyDimension, ...]
    fixed: dict[str, Value] = {}
    first: tuple[dict[str, Value], ...] = ()

    def ask(self, suggest: Suggest) -> Point:
        """A point: every dimension that applies, by name, with what is fixed. What doesn't apply isn't asked."""
        point: Point = dict(self.fixed)
        for dimension in self.dimensions:
            if dimension.name not in point and dimension.applies(point):
                point[dimension.name] = suggest(dimension)
        return point

    def every(self) -> Iterator[Point]:
        """Every point of a finite space; one point for each of a few values of a range, where there are ranges."""

        def values(dimension: AnyDimension) -> Iterable[Value]:
            if isinstance(dimension, Choice):
                return dimension.choices
            if isinstance(dimension, Int):
                return range(dimension.low, dimension.high + 1)
            return (dimension.low, dimension.start, dimension.high)

        def extend(point: Point, index: int) -> Iterator[Point]:
            if index == len(self.dimensions):
                yield point
                return
            dimension = self.dimensions[index]
            if dimension.name in point or not dimension.applies(point):
                yield from extend(point, index + 1)
                return
            for value in values(dimension):
                yield from extend({**point, dimension.name: value}, index + 1)

        return extend(dict(self.fixed), 0)

    def offered(self, name: str) -> tuple[Value, ...]:
        """Every value that a dimension can take, of a range its ends; none where it is left out."""
        values: dict[Value, None] = {self.fixed[name]: None} if name in self.fixed else {}
        for dimension in self.dimensions:
            if dimension.name == name:
                choices = dimension.choices if isinstance(dimension, Choice) else (dimension.low, dimension.high)
                values |= dict.fromkeys(choices)
        return tuple(values)

    @property
    def reachable(self) -> tuple[AnyDimension, ...]:
        """The dimensions that some trial is asked: a head's own range isn't where that head isn't offered."""
        return tuple(d for d in self.dimensions if all(self._may_hold(name, c) for name, c in d.when.items()))

    def _may_hold(self, name: str, condition: Condition) -> bool:
        if any(d.name == name and not isinstance(d, Choice) for d in self.dimensions):
            return True  # a range, of which any value may occur
        return any(condition.holds(value) for value in self.offered(name))

    def described(self) -> dict[str, str]:
        """What each dimension may be, in words, by its key."""
        return {d.key: d.describe() for d in self.reachable} | {n: f"fixed at {v}" for n, v in self.fixed.items()}

    def definitions(self) -> dict[str, Any]:
        """Each dimension as settings define it, by its key, without when it is asked; a value where it is fixed."""
        return {d.key: d.definition() for d in self.reachable} | dict(self.fixed)

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the dimensions that can take more than one value, in the order in which they are asked."""
        names = dict.fromkeys(dimension.name for dimension in self.dimensions)
        return tuple(name for name in names if len(self.offered(name)) > 1)

    def keyed(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """The asked values of a point by key, without what is fixed."""
        return {d.key: point[d.name] for d in self.asked(point)}

    def asked(self, point: Mapping[str, Value]) -> list[AnyDimension]:
        """The dimensions that were asked to make this point."""
        seen: Point = dict(self.fixed)
        asked: list[AnyDimension] = []
        for dimension in self.dimensions:
            if dimension.name not in seen and dimension.applies(seen) and dimension.name in point:
                seen[dimension.name] = point[dimension.name]
                asked.append(dimension)
        return asked

    def complete(self, partial: Mapping[str, Value]) -> Point:
        """A whole point from part of one: what is missing takes the dimension's default."""
        return self.ask(lambda dimension: partial.get(dimension.name, dimension.start))

    def problems(self, partial: Mapping[str, Value]) -> list[str]:
        """What is wrong with a person's configuration: unknown names, values outside, or what doesn't apply."""
        found = []
        point = self.complete(partial)
        asked = {d.name: d for d in self.asked(point)}
        names = {d.name for d in self.dimensions} | set(self.fixed)
        for name, value in partial.items():
            if name not in names:
                found.append(f'"{name}" is no dimension of this space')
            elif name in asked and not asked[name].contains(value):
                found.append(f"{name} is {value!r}, expected {asked[name].describe()}")
            elif name in self.fixed and self.fixed[name] != value:
                found.append(f"{name} is {value!r}, but the search fixes it at {self.fixed[name]!r}")
            elif name not in asked and name not in self.fixed:
                found.append(f"{name} doesn't apply to this configuration")
        return found
