"""What a configuration's runs come to on a test set: the metric with its intervals, by class, by subgroup, calibrated,
at thresholds that were fixed on validation. Plain data for a result file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from spaces.config import OperatingPointConfig
from trainables.calibration import at_threshold, calibration, operating_point, quality, tempered
from trainables.data.manifest import Task
from trainables.data.units import Units
from trainables.intervals import Interval, group_bootstrap, seed_interval, share_interval
from trainables.metric_names import PROPER
from trainables.metrics import Over, Undefined, by_class, predicted, summary
from trainables.predictions import Predictions

SUBGROUP_RESAMPLES = 2_000
CLASS_RESAMPLES = 2_000


@dataclass(frozen=True)
class Frozen:
    """What a finished model's card fixes."""

    temperature: float | None
    points: Sequence[Mapping[str, Any]] | None
    """Operating points, as `evaluate` gave them at the final; a threshold of None is infinite."""


def evaluate(
    metric: str,
    task: Task,
    names: Sequence[str],
    units: Units,
    probabilities: np.ndarray,
    shipped: int,
    validation: Predictions | None,
    over: Over = None,
    frozen: Frozen | None = None,
    point: OperatingPointConfig | None = None,
) -> dict[str, Any]:
    """Results of one configuration.

    Args:
        names: of the C classes or findings.
        units: of the test set.
        probabilities: [S, U, C] of the seeds' models.
        shipped: number of the seed whose model ships.
        validation: what the shipped model predicted for the validation set; None where it learned from it.
        over: numbers of the classes that the metric is averaged over; None is all.
        frozen: temperature and thresholds that were fixed before, instead of fitting them on `validation`.
        point: what thresholds are to reach on `validation`; the default's by default.

    Returns:
        `test` (expected over seeds), `shipped`, `classes` (each with the `intervals` of what is told of it) and
        `subgroups`; and `calibration` and `operating_points`, None where they weren't fixed.
    """
    truth, groups, classes = units.truth, units.groups, len(names)
    own = probabilities[shipped]
    return {
        "test": _interval(lambda: seed_interval(metric, truth, probabilities, groups, classes=names, over=over)),
        "shipped": _interval(lambda: group_bootstrap(metric, truth, own, groups, classes=names, over=over)),
        "classes": [
            {"name": name, **asdict(of_class), "intervals": _intervals_of_class(c, truth, own, groups, names)}
            for c, (name, of_class) in enumerate(zip(names, by_class(truth, own, classes), strict=True))
        ],
        "subgroups": _subgroups(metric, units, own, names, over),
        "calibration": _calibrated(units, own, validation, classes, over) if validation else None,
        "operating_points": (
            _operating_points(names, units, own, validation, point or OperatingPointConfig()) if validation else None
        ),
        **(_as_frozen(names, units, own, classes, over, frozen) if frozen else {}),
    }


def intervals_of_seeds(
    metric: str, units: Units, probabilities: np.ndarray, names: Sequence[str], over: Over = None
) -> list[dict[str, Any]]:
    """Of each seed's model by itself, by probabilities [S, U, C]: what other groups would have given."""

    def of(own: np.ndarray) -> dict[str, Any]:
        return _interval(lambda: group_bootstrap(metric, units.truth, own, units.groups, classes=names, over=over))

    return [of(own) for own in probabilities]


def metrics_of_seeds(
    units: Units, probabilities: np.ndarray, task: Task, over: Over = None
) -> list[dict[str, float | None]]:
    """Every metric of each seed's model, by probabilities [S, U, C]."""
    return [summary(units.truth, of_seed, of_seed.shape[-1], task, over=over) for of_seed in probabilities]


def _intervals_of_class(
    c: int, truth: np.ndarray, own: np.ndarray, groups: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Of one class, or finding, against the rest: by what is told of it. Findings have no recall, nor has a class
    without rows."""

    def ranked(metric: str) -> dict[str, Any]:
        return _interval(
            lambda: group_bootstrap(metric, truth, own, groups, classes=names, over=[c], resamples=CLASS_RESAMPLES)
        )

    found = {"auroc": ranked("macro_auroc"), "average_precision": ranked("macro_average_precision")}
    rows = truth == c
    if truth.ndim == 1 and rows.any():
        right = predicted(own)[rows] == c
        found["recall"] = asdict(share_interval(right, groups[rows], resamples=CLASS_RESAMPLES))
    return found


def _subgroups(
    metric: str, units: Units, probabilities: np.ndarray, names: Sequence[str], over: Over
) -> list[dict[str, Any]]:
    """The metric within each value of each attribute, with counts; where it isn't defined there, why."""
    found = []
    for attribute, values in units.attributes.items():
        for value in sorted(set(values.tolist()) - {""}):
            rows = values == value

            def within(rows: np.ndarray = rows) -> Interval:
                return group_bootstrap(
                    metric,
                    units.truth[rows],
                    probabilities[rows],
                    units.groups[rows],
                    classes=names,
                    over=over,
                    resamples=SUBGROUP_RESAMPLES,
                )

            counts = {"units": int(rows.sum()), "groups": len(np.unique(units.groups[rows]))}
            found.append({"attribute": attribute, "value": value, **counts, "metric": _interval(within)})
    return found


def _calibrated(
    units: Units, own: np.ndarray, validation: Predictions, classes: int, over: Over
) -> dict[str, Any] | None:
    if len(np.unique(validation.groups)) < 2:
        return None
    try:
        found = calibration(
            validation.truth, validation.probabilities, validation.groups, units.truth, own, classes=classes, over=over
        )
    except Undefined:
        return None
    return {**asdict(found), "intervals": _intervals_of_proper(units, own, found.temperature, classes, over)}


def _intervals_of_proper(
    units: Units, own: np.ndarray, temperature: float, classes: int, over: Over
) -> dict[str, dict[str, Any]]:
    """Of log loss and Brier score on the test, before and after the temperature. The calibration error has none: of few
    rows it mostly lies above its true value (always, where probabilities are right), so that a bootstrap's interval
    would often miss that (docs/results.md)."""
    several = units.truth.ndim == 2

    def of(name: str, probabilities: np.ndarray) -> dict[str, Any]:
        of_findings = over if several else None
        return _interval(
            lambda: group_bootstrap(name, units.truth, probabilities, units.groups, classes=classes, over=of_findings)
        )

    after = tempered(own, temperature, several=several)
    return {
        part: {name: of(name, probabilities) for name in PROPER}
        for part, probabilities in (("test_before", own), ("test_after", after))
    }


def _as_frozen(
    names: Sequence[str], units: Units, own: np.ndarray, classes: int, over: Over, frozen: Frozen
) -> dict[str, Any]:
    """`calibration` and `operating_points` with nothing fitted here; None where the model has none."""
    found: dict[str, Any] = {"calibration": None, "operating_points": None}
    if frozen.temperature is not None:
        after = tempered(own, frozen.temperature, several=units.truth.ndim == 2)
        found["calibration"] = {
            "temperature": frozen.temperature,
            "test_before": asdict(quality(units.truth, own, classes, over=over)),
            "test_after": asdict(quality(units.truth, after, classes, over=over)),
            "intervals": _intervals_of_proper(units, own, frozen.temperature, classes, over),
        }
    if frozen.points is not None:
        found["operating_points"] = [_at_frozen(list(names), units, own, point) for point in frozen.points]
    return found


def _at_frozen(names: list[str], units: Units, own: np.ndarray, point: Mapping[str, Any]) -> dict[str, Any]:
    """A model's operating point, with what it comes to on these units."""
    kept = {key: value for key, value in point.items() if key not in ("sensitivity", "specificity")}
    if "undefined" in point:
        return kept
    threshold = np.inf if point["threshold"] is None else point["threshold"]
    try:
        sensitivity, specificity = at_threshold(
            units.truth, own, units.groups, of_class=names.index(point["name"]), threshold=threshold
        )
    except Undefined as reason:
        return {**kept, "undefined": str(reason)}
    return {**kept, "sensitivity": asdict(sensitivity), "specificity": asdict(specificity)}


def _operating_points(
    names: Sequence[str], units: Units, own: np.ndarray, validation: Predictions, wanted: OperatingPointConfig
) -> list[dict[str, Any]]:
    """Of each class against the rest (of two, of the second alone)."""
    found: list[dict[str, Any]] = []
    several = units.truth.ndim == 2
    for c in range(1 if len(names) == 2 and not several else 0, len(names)):
        try:
            point = operating_point(
                validation.truth,
                validation.probabilities,
                units.truth,
                own,
                units.groups,
                of_class=c,
                wanted=wanted.at,
                target=wanted.target,
            )
        except Undefined as reason:
            found.append({"name": names[c], "undefined": str(reason)})
        else:
            found.append({"name": names[c], **_finite(asdict(point))})
    return found


def _finite(data: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: a threshold that nothing reaches is None."""
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in data.items()}


def _interval(compute: Callable[[], Interval]) -> dict[str, Any]:
    """An interval as plain data; of a metric that isn't defined on the test set, no number and the reason."""
    try:
        return asdict(compute())
    except Undefined as reason:
        empty: dict[str, Any] = dict.fromkeys(field.name for field in fields(Interval))
        return {**empty, "warnings": [f"not defined on the test set: {reason}"]}
