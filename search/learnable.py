"""What a search can learn from its validation set: how sure one value is, and which differences it can show.

Nothing is trained for this. Predictions of an assumed skill are drawn for the real units, classes and groups of the
validation set, and their metric is jackknifed over groups (Efron 1982), as a trial's own standard error is. Two
configurations share half of the variance of their errors, and the units of a group half of theirs: assumptions, stated
with the result, not measured. The smallest difference is that of a paired two-sided test at 5% with a power of 80%.
The optimism of the best of N is the expected maximum of N independent normal errors, of which those that
configurations share are no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats

from trainables.data.manifest import Task
from trainables.data.units import Scored, Units
from trainables.grouped import GroupedMetric, grouped_metric
from trainables.metrics import Over, Undefined, compute
from trainables.resampling import FEW_GROUPS

SKILL = 0.8
"""Value of the metric at which the predictions are drawn."""
SHARED = 0.5
"""Part of the errors' variance that two configurations have in common."""
WITHIN_GROUPS = 0.5
"""Part of the errors' variance that the units of a group have in common."""
LEVEL, POWER = 0.05, 0.8
WORTH = 0.02
"""Difference of the metric that choosing well is assumed to be worth: published tables of backbones on these datasets
span some .02 to .05 from a middling to the best one."""
REPEATS = 5
STRONGEST = 64.0  # signal over noise, at which every metric is 1 but for rounding
BISECTIONS = 12


@dataclass(frozen=True)
class Learnable:
    """What the validation set can show, in the metric's own unit; None where it can't be told, with `reason`."""

    units: int
    groups: int
    trials: int
    standard_error: float | None = None
    """Of one configuration's value."""
    smallest: float | None = None
    """Difference of two configurations that is found in 80% of the cases."""
    optimism: float | None = None
    """By how much the best of as many equally good configurations would look better than it is."""
    reason: str = ""

    @property
    def ranks_noise(self) -> bool:
        """Whether the best of the budgeted trials would be chosen by luck rather than for what it is worth."""
        return self.optimism is not None and self.optimism > WORTH


def learnable(
    metric: str, units: Units, classes: int, task: Task, trials: int, seed: int = 0, over: Over = None
) -> Learnable:
    """What `trials` configurations can be told apart by on these units. Takes seconds for 40,000 of them.

    Args:
        metric: a name from `spaces.config.METRICS` that is for the task.
        units: of the validation set; U of them.
        classes: number of classes or findings.
        trials: that the search may run.
        over: as for `trainables.metrics.compute`.
    """
    names, group = np.unique(units.groups, return_inverse=True)
    found = Learnable(len(units), len(names), trials)
    if len(names) < 2:
        return Learnable(**{**vars(found), "reason": "all of it is of one group"})
    generator = np.random.default_rng(seed)
    try:
        skilled = _strength(metric, units.truth, group, classes, task, generator, over)
        variances = [
            _variances(metric, units.truth, group, classes, task, skilled, generator, over) for _ in range(REPEATS)
        ]
    except Undefined as reason:
        return Learnable(**{**vars(found), "reason": str(reason)})
    of_one, of_difference = np.mean(variances, axis=0)
    if not np.isfinite(of_one + of_difference):
        return Learnable(**{**vars(found), "reason": "leaving out one group makes the metric undefined"})
    normal = stats.norm.ppf
    return Learnable(
        len(units),
        len(names),
        trials,
        standard_error=math.sqrt(of_one),
        smallest=float(normal(1 - LEVEL / 2) + normal(POWER)) * math.sqrt(of_difference),
        optimism=expected_maximum(trials) * math.sqrt(of_difference / 2),
    )


def expected_maximum(count: int) -> float:
    """Mean of the largest of `count` independent standard normal numbers."""
    if count < 2:
        return 0.0
    normal = stats.norm

    def weighted(x: float) -> float:
        return float(x * count * np.exp(normal.logpdf(x) + (count - 1) * normal.logcdf(x)))

    return float(integrate.quad(weighted, -8, 12, limit=200)[0])


def few_groups(by_class: Mapping[str, Scored]) -> dict[str, int]:
    """Classes with so few groups that no interval on this part can be trusted, and how many they have."""
    return {name: of.groups for name, of in by_class.items() if of.groups < FEW_GROUPS}


def _variances(
    metric: str, truth: np.ndarray, group: np.ndarray, classes: int, task: Task, strength: float,
    generator: np.random.Generator, over: Over = None,
) -> tuple[float, float]:  # fmt: skip
    """Jackknifed variances of one configuration's value, and of the difference between two."""
    shape, groups = (len(truth), classes), int(group.max()) + 1
    common = _noise(shape, group, generator)
    left_out = []
    for _ in range(2):
        noise = math.sqrt(SHARED) * common + math.sqrt(1 - SHARED) * _noise(shape, group, generator)
        predictions = _predictions(truth, noise, classes, task, strength)[None]
        of_groups: GroupedMetric = grouped_metric(metric, truth, predictions, group, classes, over=over)
        left_out.append(of_groups.without_each())
    one, other = left_out
    with np.errstate(invalid="ignore"):
        return (groups - 1) * float(one.var() + other.var()) / 2, (groups - 1) * float((one - other).var())


def _strength(
    metric: str, truth: np.ndarray, group: np.ndarray, classes: int, task: Task, generator: np.random.Generator,
    over: Over = None,
) -> float:  # fmt: skip
    """Signal over noise at which the metric is `SKILL`."""
    noise = _noise((len(truth), classes), group, generator)
    low, high = 1 / STRONGEST, STRONGEST
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        if compute(metric, truth, _predictions(truth, noise, classes, task, middle), classes, over=over) < SKILL:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def _noise(shape: tuple[int, int], group: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Standard normal [U, L], of which units of a group share a part."""
    of_group = generator.standard_normal((int(group.max()) + 1, shape[1]))[group]
    return math.sqrt(WITHIN_GROUPS) * of_group + math.sqrt(1 - WITHIN_GROUPS) * generator.standard_normal(shape)


def _predictions(truth: np.ndarray, noise: np.ndarray, classes: int, task: Task, strength: float) -> np.ndarray:
    """Probabilities [U, L] of a predictor that sees the truth with that signal over noise. Grades are mistaken for
    their neighbours sooner than for distant ones."""
    if task == "multilabel":
        return stats.logistic.cdf(strength * np.nan_to_num(truth) + noise)
    if task == "ordinal":
        seen = truth + noise[:, 0] / strength
        scores = -((seen[:, None] - np.arange(classes)) ** 2)
    else:
        scores = strength * (truth[:, None] == np.arange(classes)) + noise
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
