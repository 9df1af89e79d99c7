"""Trials in words, for terminals, reports and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.record import State, Trial
from trainables.ranges import RANGES, within_range

SAID = ("backbone", "trained_blocks")  # of a configuration, in front of its other parameters
LEVEL, Z95 = 0.95, 1.959964  # of intervals, and the quantile of the normal distribution for it


def state_counts(trials: Sequence[Trial]) -> dict[str, int]:
    """Number of trials by state, those that occur."""
    return {str(state): n for state in State if (n := sum(t.state is state for t in trials))}


def what_is_trained(trial: Trial) -> str:
    blocks, adapter = trial.point.get("trained_blocks", 0), trial.point.get("adapter", "none")
    if blocks == 0:
        return "head only"
    what = {"all": "all blocks", 1: "last block"}.get(blocks, f"last {blocks} blocks")
    return what if adapter == "none" else f"{what}, {adapter}"


def interval(value: float, error: float | None, metric: str) -> tuple[float, float] | None:
    """Ends of the 95% interval of a value on the groups of the validation set, from its standard error over them; None
    where there is none (`no_interval` says why)."""
    if no_interval(value, error, metric) or error is None:
        return None
    return within_range(metric, value, Z95 * error)


def no_interval(value: float, error: float | None, metric: str) -> str:
    """Why a value has no interval, as a clause; nothing where it has one. At an end of its metric's range, or where no
    group makes a difference, a standard error of 0 says that there are few groups, not that the value is certain."""
    if metric not in RANGES:
        return "no interval: the metric's range isn't known"
    lowest, highest = RANGES[metric]
    if value in (lowest, highest):
        return f"no interval: it is the {'highest' if value == highest else 'lowest'} value there is"
    if error is None:
        return "no interval: its standard error isn't known"
    return "" if error else "no interval: leaving out any group makes no difference"


def interval_or_why(value: float, error: float | None, metric: str) -> str:
    """`0.9268 [0.8901, 0.9530]`, or `1.0000 (no interval: it is the highest value there is)`."""
    ends = interval(value, error, metric)
    own = f"[{ends[0]:.4f}, {ends[1]:.4f}]" if ends else f"({no_interval(value, error, metric)})"
    return f"{value:.4f} {own}"


def value_interval(trial: Trial, metric: str, of_fold: int) -> tuple[float, float] | None:
    """`interval` of a complete trial's value. It doesn't know that the trial may be the best of many:
    `search.optimism` corrects for that."""
    return None if trial.value is None else interval(trial.value, trial.standard_error(of_fold), metric)


def value_text(trial: Trial, metric: str, of_fold: int) -> str:
    """`interval_or_why` of a complete trial's value."""
    assert trial.value is not None
    return interval_or_why(trial.value, trial.standard_error(of_fold), metric)


def describe_best(trial: Trial, metric: str, of_fold: int) -> str:
    """`trial 3, mae_tiny, last 2 blocks: balanced_accuracy 0.9268 [0.8901, 0.9530] on validation`."""
    return (
        f"trial {trial.number}, {trial.point['backbone']}, {what_is_trained(trial)}: "
        f"{metric} {value_text(trial, metric, of_fold)} on validation"
    )


def same_in_all(trials: Sequence[Trial]) -> dict[str, Any]:
    """Of several trials, the parameters that have one value in all of them, without those that are always said."""
    if len(trials) < 2:
        return {}
    first = trials[0].point
    return {n: v for n, v in first.items() if n not in SAID and all(n in t.point and t.point[n] == v for t in trials)}


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """`head_lr 0.00123, level 2`."""
    return ", ".join(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in parameters.items())


def origin(why: str) -> str:
    """Why a trial is tried, from what the record says of it."""
    return {"tpe": "sampler (TPE)", "random": "sampler (random)"}.get(why, why)


def trial_rows(trials: Sequence[Trial], of_fold: int) -> list[dict[str, Any]]:
    """Trials as plain data, for `status --json`."""
    return [
        {
            "number": t.number,
            "state": str(t.state),
            "cause": t.cause,
            "parameters": t.point,
            "epochs": t.done,
            "value": t.value,
            "standard_error": t.standard_error(of_fold),
            "values": t.values(),
            "seconds": round(t.seconds, 3),
            "why": t.why,
        }
        for t in trials
    ]
