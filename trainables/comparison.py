"""Which recipe is better: paired differences, and whom nothing distinguishes from the best.

Recipes are compared on the same rows, so that what makes a group hard for all of them cancels out: pairing is over
groups. Seeds are no pairs: the first seeds of two recipes have nothing in common. Shapes: S seeds, N rows, C classes,
K recipes, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trainables.intervals import combined, shared
from trainables.metrics import Over
from trainables.ranges import RANGES
from trainables.resampling import Classes, NoInterval, Resampling


@dataclass(frozen=True)
class Difference:
    """The expected metric of recipe a less that of b. Plain data, fit for a record."""

    value: float
    low: float | None
    """None where there is no interval to be trusted; the last of `warnings` then says why."""
    high: float | None
    p: float | None
    """Of the two-sided test that there is no difference."""
    level: float
    resamples: int
    groups: int
    seeds: tuple[int, int]
    warnings: tuple[str, ...] = ()
    standard_error: float | None = None
    dof: float | None = None
    """Degrees of freedom of the t quantile."""


@dataclass(frozen=True)
class AgainstBest:
    """One recipe beside the best of the others. Plain data, fit for a record."""

    name: str
    value: float
    """Mean of its seeds' metrics."""
    difference: float
    """`value` less the highest of the others'."""
    low: float | None
    """Simultaneous interval of the true difference from the best of the others; it always reaches 0 from one side."""
    high: float | None
    in_question: bool
    """Not distinguishable from the best, which isn't the same as equal."""
    within_margin: bool | None
    """Worse than the best by no more than the margin; None without a margin or an interval."""


@dataclass(frozen=True)
class Bounds:
    """Of each recipe's true difference from the best of the others."""

    low: np.ndarray
    """[K], at most 0."""
    high: np.ndarray
    """[K], at least 0."""
    kept: np.ndarray
    """[K] bool, not distinguishable from the best."""


@dataclass(frozen=True)
class Comparison:
    """All recipes beside the best of them, best value first. Plain data, fit for a record."""

    recipes: tuple[AgainstBest, ...]
    level: float
    margin: float | None
    resamples: int
    groups: int
    warnings: tuple[str, ...] = ()


def paired_difference(
    metric: str,
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    groups: np.ndarray,
    *,
    classes: Classes,
    over: Over = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Interval of the difference between two recipes' expected metrics over seeds, given their training set.

    Var = what different seeds' differences have in common over groups (from the group bootstrap of all models on the
    same resamples) + s_a^2 / S_a + s_b^2 / S_b; a t quantile with Satterthwaite's degrees of freedom, cut at what is
    possible. That is Obuchowski and Rockette's (1995) analysis with readers nested within the methods. A recipe with
    one seed is taken as that very model, and a warning says so.

    Args:
        a, b: probabilities [S, N, C], not necessarily as many seeds.
        Others, and raises: as for `intervals.group_bootstrap`.
    """
    sample = Resampling(metric, labels, np.concatenate([a, b]), groups, classes, over)
    seeds = (len(a), len(b))
    sides = (slice(0, len(a)), slice(len(a), None))
    notes, value = sample.warnings(), float(sample.values[sides[0]].mean() - sample.values[sides[1]].mean())
    notes += [_one_seed(name) for name, count in zip("ab", seeds, strict=True) if count == 1]
    low = high = p = error = dof = None
    try:
        covariance = _between(np.cov(sample.draw(resamples, seed, notes)), sides)
        of_groups = max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
        parts = [_of_seeds(sample.values[side]) for side in sides if len(sample.values[side]) > 1]
        if of_groups:
            left_out = sample.without_each()
            factor, dof_groups = sample.of_strata(left_out[sides[0]].mean(axis=0) - left_out[sides[1]].mean(axis=0))
            parts.append((factor * of_groups, dof_groups))
        error, dof = combined(parts)
        half = float(stats.t.ppf((1 + level) / 2, dof)) * error
        p = float(2 * stats.t.sf(abs(value) / error, dof))
        most = RANGES[metric][1] - RANGES[metric][0]
        low, high = max(-most, value - half), min(most, value + half)
    except NoInterval as reason:
        notes.append(f"no interval: {reason}")
    return Difference(value, low, high, p, level, resamples, sample.groups, seeds, tuple(notes), error, dof)


def comparison_with_best(
    metric: str,
    labels: np.ndarray,
    recipes: Mapping[str, np.ndarray],
    groups: np.ndarray,
    *,
    classes: Classes,
    over: Over = None,
    margin: float | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Simultaneous multiple comparisons with the best (Hsu 1981; unequal variances: Edwards and Hsu 1983).

    A recipe k is out only if the upper bound of theta_k - max over the others is below 0; the best one is kept with at
    least the stated confidence, however many there are. For each k the critical value is that of the largest
    studentised difference between another and it (max-T), from group bootstrap draws of all recipes at once plus, for
    recipes with several seeds, draws from t with S - 1 degrees of freedom for what another set of seeds would change.

    Args:
        recipes: by name probabilities [S, N, C]; at least two recipes.
        margin: a difference that wouldn't matter, in the metric's unit, chosen before looking.
        Others, and raises: as for `intervals.group_bootstrap`.
    """
    if len(recipes) < 2:
        raise ValueError(f"{len(recipes)} recipes, expected at least 2")
    names = list(recipes)
    sample = Resampling(metric, labels, np.concatenate([recipes[name] for name in names]), groups, classes, over)
    ends = np.cumsum([len(recipes[name]) for name in names])
    sides = [slice(end - len(recipes[name]), end) for name, end in zip(names, ends, strict=True)]
    values = np.array([sample.values[side].mean() for side in sides])
    notes = sample.warnings()
    notes += [_one_seed(name) for name, side in zip(names, sides, strict=True) if len(sample.values[side]) == 1]
    bounds: Bounds | None = None
    try:
        bounds = _bounds(values, *_errors(sample, sides, resamples, seed, notes), level)
    except NoInterval as reason:
        notes.append(f"no interval: {reason}")
    found = []
    for k in np.argsort(-values, kind="stable"):
        low, high = (None, None) if bounds is None else (float(bounds.low[k]), float(bounds.high[k]))
        found.append(
            AgainstBest(
                name=names[k],
                value=float(values[k]),
                difference=float(values[k] - np.delete(values, k).max()),
                low=low,
                high=high,
                in_question=bounds is None or bool(bounds.kept[k]),
                within_margin=None if margin is None or low is None else low >= -margin,
            )
        )
    return Comparison(tuple(found), level, margin, resamples, sample.groups, tuple(notes))


def _errors(
    sample: Resampling, sides: list[slice], resamples: int, seed: int, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """How far the recipes' values may lie from their expected ones, over groups and seeds: draws of all together
    [K, B], and their covariance [K, K]."""
    drawn = sample.draw(resamples, seed, notes)
    factor, dof = sample.of_strata(sample.without_each().mean(axis=0))
    covariance = factor * _between(np.cov(drawn), sides)
    means = np.stack([drawn[side].mean(axis=0) for side in sides])
    errors = _recoloured(means - means.mean(axis=1, keepdims=True), covariance)
    rng = np.random.default_rng([seed, 1])  # other numbers than the groups'
    errors *= np.sqrt(dof / rng.chisquare(dof, errors.shape[1]))  # the covariance is itself an estimate
    for k, side in enumerate(sides):
        if len(sample.values[side]) > 1:
            variance, dof = _of_seeds(sample.values[side])
            errors[k] += math.sqrt(variance) * rng.standard_t(dof, errors.shape[1])
            covariance[k, k] += variance
    return errors, covariance


def _bounds(values: np.ndarray, errors: np.ndarray, covariance: np.ndarray, level: float) -> Bounds:
    """Ends of the intervals of theta_k - max over the others, from estimates [K] and what `_errors` gave."""
    number = len(values)
    lead, half = np.zeros((number, number)), np.zeros((number, number))  # [k, j]: of j over k, and what may be error
    for k in range(number):
        others = np.delete(np.arange(number), k)
        variance = covariance[others, others] + covariance[k, k] - 2 * covariance[k, others]
        spread = np.sqrt(variance.clip(0))[:, None]
        over_k = errors[others] - errors[k]
        studentised = np.divide(over_k, spread, out=np.zeros_like(over_k), where=spread > 0)
        lead[k, others] = values[others] - values[k]
        half[k, others] = np.quantile(studentised.max(axis=0), level) * spread[:, 0]
    apart = ~np.eye(number, dtype=bool)
    high = np.where(apart, half - lead, np.inf).min(axis=1)
    kept = high >= 0
    # were i of `kept` the best, k would be at most so far below it
    below = np.where(apart & kept[:, None], np.minimum(0, lead - half), np.inf).min(axis=0)
    return Bounds(np.where(np.isfinite(below), below, 0.0), high.clip(0), kept)


def _between(covariance: np.ndarray, sides: Sequence[slice]) -> np.ndarray:
    """Covariances over groups of recipes [K, K] from those of all models: what different seeds have in common."""
    return np.array(
        [[shared(covariance[a, a]) if a == b else float(covariance[a, b].mean()) for b in sides] for a in sides]
    )


def _recoloured(draws: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Draws [K, B] turned linearly so that they have this covariance [K, K], or the nearest that is one."""
    values, vectors = np.linalg.eigh(np.cov(draws))
    inverse = np.divide(1, np.sqrt(values.clip(0)), out=np.zeros_like(values), where=values > values.max() * 1e-12)
    wanted, directions = np.linalg.eigh(covariance)
    root = (directions * np.sqrt(wanted.clip(0))) @ directions.T
    return root @ (vectors * inverse) @ vectors.T @ draws


def _of_seeds(values: np.ndarray) -> tuple[float, float]:
    """Variance of the mean of S seeds' values [S], and its degrees of freedom."""
    return float(values.var(ddof=1)) / len(values), len(values) - 1


def _one_seed(name: str) -> str:
    return f"{name} has one seed: the interval leaves out how much its metric varies between seeds"
