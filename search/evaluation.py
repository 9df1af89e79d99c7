"""What a configuration's runs come to on a test set: the metric with its intervals, by class, by subgroup, calibrated,
at thresholds that were fixed on validation. Plain data for a result file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from trainables.calibration import calibration, operating_point
from trainables.data.manifest import Task
from trainables.data.units import Units
from trainables.intervals import Interval, group_bootstrap, seed_interval
from trainables.metrics import Undefined, by_class, summary
from trainables.predictions import Predictions

SPECIFICITY = 0.9  # that thresholds are to reach on validation
SUBGROUP_RESAMPLES = 2_000


def evaluate(
    metric: str,
    task: Task,
    names: Sequence[str],
    units: Units,
    probabilities: np.ndarray,
    shipped: int,
    validation: Predictions | None,
) -> dict[str, Any]:
    """Results of one configuration.

    Args:
        names: of the C classes or findings.
        units: of the test set.
        probabilities: [S, U, C] of the seeds' models.
        shipped: number of the seed whose model ships.
        validation: what the shipped model predicted for the validation set; None where it learned from it.

    Returns:
        `test` (expected over seeds), `shipped`, `classes`, `subgroups`; and `calibration` and `operating_points`, None
        without a validation set.
    """
    truth, groups, classes = units.truth, units.groups, len(names)
    own = probabilities[shipped]
    return {
        "test": _interval(lambda: seed_interval(metric, truth, probabilities, groups, classes=classes)),
        "shipped": _interval(lambda: group_bootstrap(metric, truth, own, groups, classes=classes)),
        "classes": [
            {"name": name, **asdict(of_class)}
            for name, of_class in zip(names, by_class(truth, own, classes), strict=True)
        ],
        "subgroups": _subgroups(metric, units, own, classes),
        "calibration": _calibrated(units, own, validation, classes) if validation else None,
        "operating_points": _operating_points(names, units, own, validation) if validation else None,
    }


def metrics_of_seeds(units: Units, probabilities: np.ndarray, task: Task) -> list[dict[str, float | None]]:
    """Every metric of each seed's model, by probabilities [S, U, C]."""
    return [summary(units.truth, of_seed, of_seed.shape[-1], task) for of_seed in probabilities]


def _subgroups(metric: str, units: Units, probabilities: np.ndarray, classes: int) -> list[dict[str, Any]]:
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
                    classes=classes,
                    resamples=SUBGROUP_RESAMPLES,
                )

            counts = {"units": int(rows.sum()), "groups": len(np.unique(units.groups[rows]))}
            found.append({"attribute": attribute, "value": value, **counts, "metric": _interval(within)})
    return found


def _calibrated(units: Units, own: np.ndarray, validation: Predictions, classes: int) -> dict[str, Any] | None:
    if len(np.unique(validation.groups)) < 2:
        return None
    try:
        found = calibration(
            validation.truth, validation.probabilities, validation.groups, units.truth, own, classes=classes
        )
    except Undefined:
        return None
    return asdict(found)


def _operating_points(
    names: Sequence[str], units: Units, own: np.ndarray, validation: Predictions
) -> list[dict[str, Any]]:
    """Of each class against the rest (of two, of the second alone): sensitivity where specificity was to be .9."""
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
                wanted=SPECIFICITY,
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
