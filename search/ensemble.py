"""The ensemble of a final's seeds: one more model folder, whose probabilities are the mean of theirs.

It is made of every final with several seeds, so that nobody has to choose it after having seen the test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.final_run import MODEL, VALIDATION
from trainables.model_folder import save_ensemble
from trainables.predictions import Predictions


def write_ensemble(
    folder: Path,
    runs: Mapping[int, Path],
    probabilities: np.ndarray,
    judge: Callable[[np.ndarray, Predictions | None], dict[str, Any]],
    more: dict[str, Any],
) -> dict[str, Any]:
    """Writes the folder, and says how good the ensemble is.

    Args:
        folder: to write.
        runs: folder of each seed's run.
        probabilities: [S, U, C] of the seeds' models on the test.
        judge: `evaluation.evaluate` of one model by its probabilities [1, U, C] and its validation predictions.
        more: what its card says besides.

    Returns:
        `test`, `classes`, `subgroups`, `calibration` and `operating_points`.
    """
    mean = probabilities.mean(axis=0, dtype=probabilities.dtype)
    found = judge(mean[None], _validation(list(runs.values())))
    calibration, points = found["calibration"], found["operating_points"]
    card = {
        **more,
        "test": found["shipped"],
        "temperature": calibration["temperature"] if calibration else None,
        "operating_points": points,
    }
    save_ensemble(folder, {f"seed-{seed}": run / MODEL for seed, run in runs.items()}, card)
    kept = ("classes", "subgroups", "calibration", "operating_points")
    return {"test": found["shipped"], **{name: found[name] for name in kept}}


def _validation(runs: list[Path]) -> Predictions | None:
    """What the seeds' mean predicted for the validation set; None where the models learned from it."""
    if not all((run / VALIDATION).exists() for run in runs):
        return None
    of_runs = [Predictions.load(run / VALIDATION) for run in runs]
    return replace(of_runs[0], probabilities=np.stack([p.probabilities for p in of_runs]).mean(axis=0))
