"""Trials in words, for terminals, reports and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.record import State, Trial
from trainables.ranges import RANGES, within_range

SAID = ("backbone", "trained_blocks")  # of a configuration, in front of its other parameters
Z95 = 1.959964  # quantile of the normal distribution for a 95% interval


def state_counts(trials: Sequence[Trial]) -> dict[str, int]:
    """Number of trials by state, those that occur."""
    return {str(state): n for state in State if (n := sum(t.state is state for t in trials))}


def what_is_trained(trial: Trial) -> str:
    blocks, adapter = trial.point.get("trained_blocks", 0), trial.point.get("adapter", "none")
    if blocks == 0:
        return "head only"
    what = {"all": "all blocks", 1: "last block"}.get(blocks, f"last {blocks} blocks")
    return what if adapter == "none" else f"{what}, {adapter}"


def value_interval(trial: Trial, metric: str, of_fold: int) -> tuple[float, float] | None:
    """Ends of the 95% interval of a trial's value on the groups of the validation set, from its standard error; None
    where that isn't known or the value is at an end of its range. It doesn't know that the trial may be the best of
    many: `search.optimism` corrects for that."""
    error = trial.standard_error(of_fold)
    if trial.value is None or not error or metric not in RANGES or trial.value in RANGES[metric]:
        return None
    return within_range(metric, trial.value, Z95 * error)


def value_text(trial: Trial, metric: str, of_fold: int) -> str:
    """`0.9268 [0.8901, 0.9530]`, or the value alone."""
    ends = value_interval(trial, metric, of_fold)
    return f"{trial.value:.4f}" + (f" [{ends[0]:.4f}, {ends[1]:.4f}]" if ends else "")


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
