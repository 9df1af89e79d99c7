"""What to try next: Optuna's sampler over the record."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from search.memory import needs_as_much, ran_out_of_memory
from search.record import State, Trial
from search.study import OPTUNA_STATE
from spaces.config import Direction, SearchConfig
from spaces.dimensions import AnyDimension, Choice, Float, Point, Space, Value
from spaces.library import of_backbone

STARTUP = 10  # trials before the sampler models anything
ATTEMPTS = 20  # to find a point that is worth trying
ANYWHERE = 100  # further ones, where trials ran out of memory: the sampler may like what is too large
LOOKED_AT = 10_000  # points of those that are left
OF_HEADS = frozenset(
    {
        "head_lr", "head_weight_decay", "warmup", "clip", "mixup", "label_smoothing", "ema", "class_weights",
        "sampling", "uncertain", "blank",
    }
)  # fmt: skip
"""Dimensions in which trials that train heads in one pass may differ (trainables.head_member)."""


TRIED, OR_TOO_LARGE = "every configuration was tried", " or needs as much memory as one that ran out of it"


class Exhausted(Exception):
    """Nothing is left to be tried; a clause that says why."""


def distribution(dimension: AnyDimension) -> BaseDistribution:
    """Optuna's form of a dimension."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.choices)
    if isinstance(dimension, Float):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return IntDistribution(dimension.low, dimension.high, log=dimension.log)


class Sampler:
    """Asks Optuna for points, from a mirror of the record in memory, so that an ask costs no storage and a point that
    was tried before never enters the record.

    The random state is a function of (seed, number of trials in the record): a resumed search goes on where it would
    have been, instead of repeating its first points.
    """

    def __init__(self, space: Space, direction: Direction, seed: int, kind: str, trials: Sequence[Trial]) -> None:
        self.space, self.direction, self.seed, self.kind = space, direction, seed, kind
        self._mirror = optuna.create_study(direction=direction, sampler=RandomSampler(seed=0))
        self._numbers: dict[int, int] = {}  # trial's number -> number in the mirror
        self._tried: set[frozenset[tuple[str, Value]]] = set()
        self._too_large: list[Point] = []
        """Points that ran out of memory."""
        for trial in trials:
            self.add(trial)

    def ask(self, number: int) -> Point:
        """A point for the next trial, which will have this number. While it runs, others keep away from its point.

        Raises:
            Exhausted: nothing new was found, since the space is a finite one, or what is left of it needs as much
                memory as trials that ran out of it.
        """
        for attempt in range(ATTEMPTS + (ANYWHERE if self._too_large else 0)):
            kind = self.kind if attempt < ATTEMPTS else "random"
            self._mirror.sampler = _sampler(kind, _hash(self.seed, number, attempt))
            asked = self._mirror.ask()
            point = self.space.ask(partial(suggest, asked))
            if self._worth_trying(point):
                self._numbers[number] = asked.number
                self._tried.add(_identity(point))
                return point
            self._mirror.tell(asked, state=TrialState.FAIL)
        # The sampler keeps to what it likes: take what is left.
        for point in islice(self.space.every(), len(self._tried) + LOOKED_AT):
            if self._worth_trying(point):
                self.add(Trial(number, point, 0, "", 0.0))
                return point
        raise Exhausted(TRIED + (OR_TOO_LARGE if self._too_large else ""))

    def _worth_trying(self, point: Point) -> bool:
        """Whether it wasn't tried, and doesn't need as much memory as a trial that ran out of it."""
        if _identity(point) in self._tried:
            return False
        return not any(needs_as_much(point, large) for large in self._too_large)

    def ask_like(self, number: int, point: Point) -> Point | None:
        """A point that differs from another one in its head's own dimensions alone, for the next trial; None where
        nothing new was found."""
        kept = {d.key: point[d.name] for d in self.space.asked(point) if d.name not in OF_HEADS}
        for attempt in range(ATTEMPTS):
            base = _sampler(self.kind, _hash(self.seed, number, attempt))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self._mirror.sampler = PartialFixedSampler(kept, base)
            asked = self._mirror.ask()
            found = self.space.ask(partial(suggest, asked))
            if self._worth_trying(found):
                self._numbers[number] = asked.number
                self._tried.add(_identity(found))
                return found
            self._mirror.tell(asked, state=TrialState.FAIL)
        return None

    def distributions(self, point: Point) -> dict[str, BaseDistribution]:
        """By key, of the dimensions that were asked for a point."""
        return _distributions(self.space, point)

    def end(self, trial: Trial) -> None:
        """Takes a trial's end in. A pruned trial counts by its epochs; one without a usable value says nothing."""
        self._mind_memory(trial)
        mirror = self._mirror
        mirrored = optuna.trial.Trial(mirror, mirror.get_trials(deepcopy=False)[self._numbers[trial.number]]._trial_id)
        for epoch, value in _defined(trial).items():
            mirrored.report(value, epoch)
        mirror.tell(mirrored, trial.value if trial.state is State.COMPLETE else None, OPTUNA_STATE[trial.state])

    def add(self, trial: Trial) -> None:
        """Takes in a trial that was not asked for here: one of an earlier launch, or a first configuration."""
        self._tried.add(_identity(trial.point))
        self._mind_memory(trial)
        state = OPTUNA_STATE.get(trial.state, TrialState.RUNNING)
        template: dict[str, Any] = {
            "state": state,
            "params": self.space.keyed(trial.point),
            "distributions": self.distributions(trial.point),
        }
        if trial.state is State.COMPLETE:
            template["value"] = trial.value
        if trial.state.terminal:
            template["intermediate_values"] = _defined(trial)
        self._numbers[trial.number] = len(self._mirror.get_trials(deepcopy=False))
        self._mirror.add_trial(create_trial(**template))

    def _mind_memory(self, trial: Trial) -> None:
        if ran_out_of_memory(trial) and not any(needs_as_much(trial.point, large) for large in self._too_large):
            self._too_large.append(trial.point)


class Comparing:
    """A sampler for each backbone, which knows that backbone's part of the space and its trials alone (`strategy:
    compare`): what is learned of one gives no other one more trials."""

    def __init__(
        self,
        space: Space,
        direction: Direction,
        seed: int,
        kind: str,
        trials: Sequence[Trial],
        backbones: Sequence[str],
    ) -> None:
        self.space = space
        self._of = {
            name: Sampler(of_backbone(space, name), direction, seed, kind, of_trials(trials, name))
            for name in backbones
        }

    def ask(self, number: int, backbone: str) -> Point:
        """A point for the next trial, of a backbone. Raises `Exhausted` as `Sampler.ask` does."""
        return self._of[backbone].ask(number)

    def ask_like(self, number: int, point: Point) -> Point | None:
        """As `Sampler.ask_like`, of the point's backbone."""
        return self._of[str(point["backbone"])].ask_like(number, point)

    def distributions(self, point: Point) -> dict[str, BaseDistribution]:
        """By key, of the dimensions that were asked for a point in the whole space, as the record has them."""
        return _distributions(self.space, point)

    def end(self, trial: Trial) -> None:
        self._of[str(trial.point["backbone"])].end(trial)

    def add(self, trial: Trial) -> None:
        self._of[str(trial.point["backbone"])].add(trial)


def of_trials(trials: Sequence[Trial], backbone: str) -> list[Trial]:
    """The trials of one backbone."""
    return [trial for trial in trials if trial.point["backbone"] == backbone]


def sampler_of(
    config: SearchConfig, space: Space, direction: Direction, trials: Sequence[Trial]
) -> Sampler | Comparing:
    """A search's sampler over its record."""
    if config.strategy == "compare":
        return Comparing(space, direction, config.seed, config.sampler, trials, config.backbones)
    return Sampler(space, direction, config.seed, config.sampler, trials)


def _distributions(space: Space, point: Point) -> dict[str, BaseDistribution]:
    return {d.key: distribution(d) for d in space.asked(point)}


def _defined(trial: Trial) -> dict[int, float]:
    """The metric by epoch, where it is defined."""
    return {e: value for e in sorted(trial.epochs) if (value := trial.epochs[e].value) is not None}


def suggest(trial: optuna.trial.Trial, dimension: AnyDimension) -> Value:
    """A trial's value for a dimension."""
    if isinstance(dimension, Choice):
        chosen = trial.suggest_categorical(dimension.key, dimension.choices)
        assert chosen is not None  # the choices hold no None
        return chosen
    if isinstance(dimension, Float):
        return trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)
    return trial.suggest_int(dimension.key, dimension.low, dimension.high, log=dimension.log)


def _sampler(kind: str, seed: int) -> BaseSampler:
    if kind == "random":
        return RandomSampler(seed=seed)
    return TPESampler(n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed)


def _hash(*parts: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little")


def _identity(point: Point) -> frozenset[tuple[str, Value]]:
    return frozenset((name, str(value)) for name, value in point.items())
