"""Configurations of a final on its test set: each by itself, and which can't be told from the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from search.ensemble import write_ensemble
from search.evaluation import evaluate, intervals_of_seeds, metrics_of_seeds
from search.final_runs import Candidate, run_name
from search.ledger import Standing
from spaces.config import Direction, TrialConfig
from trainables import final_run
from trainables.comparison import comparison_with_best
from trainables.data.manifest import Manifest
from trainables.data.parts import open_part
from trainables.data.units import units_of
from trainables.files import replacing
from trainables.final_run import Fit
from trainables.inference import predict
from trainables.metrics import Undefined, classes_numbered
from trainables.model_folder import load_model, save_model
from trainables.place import Place, this_machine
from trainables.predictions import Predictions


def evaluated(
    candidate: Candidate,
    folder: Path,
    runs: list[dict[str, Any]],
    test: Manifest,
    cache: Path,
    fit: Fit,
    standing: Standing,
) -> tuple[dict[str, Any], np.ndarray]:
    """One configuration on the test set: each seed, their mean with its interval, and the model that ships; and the
    probabilities [S, U, C] of its seeds."""
    export = candidate.export
    config, metric = export.config, export.config.metric
    place: Place = this_machine(export.resources.accelerators, export.resources.cpus)
    part = open_part(test, export.dataset, config.resolution, cache)
    probabilities = []
    for seed in candidate.seeds:
        trained = load_model(folder / "runs" / run_name(candidate, seed, fit) / final_run.MODEL)
        probabilities.append(predict(trained.model.to(place.device), trained.config, part, place))
    stacked = np.stack(probabilities)
    units = part.units
    labels = units.truth
    shipped = _shipped(runs, export.direction)
    folder_of_shipped = folder / "runs" / run_name(candidate, candidate.seeds[shipped], fit)
    validation = Predictions.load(folder_of_shipped / final_run.VALIDATION) if fit == "train" else None
    over = classes_numbered(config.classes_averaged, test.classes)
    point = export.operating_point
    found = evaluate(metric, test.task, test.classes, units, stacked, shipped, validation, over, point=point)
    report: dict[str, Any] = {
        "name": candidate.name,
        "backbone": config.backbone,
        "found": export.found.plain(),
        "config": {
            **config.plain(),
            "weights": config.weights if config.weights in ("pretrained", "random") else "file",
        },
        "reseeded": reseeded_value([run["validation"] for run in runs]),
        "seeds": [
            {"seed": seed, "validation": run["validation"], "test": metrics, "interval": interval}
            for seed, run, metrics, interval in zip(
                candidate.seeds,
                runs,
                metrics_of_seeds(units, stacked, test.task, over),
                intervals_of_seeds(metric, units, stacked, test.classes, over),
                strict=True,
            )
        ],
        "test": found["test"],
        "shipped": {"seed": candidate.seeds[shipped], "test": found["shipped"], "why": _why(fit, len(runs))},
        **{name: found[name] for name in ("classes", "subgroups", "calibration", "operating_points")},
    }
    _save_predictions(folder / f"{candidate.name}-test.npz", stacked, labels)
    temperature = found["calibration"]["temperature"] if found["calibration"] else None
    of_final = {
        "fit": fit,
        "metric": metric,
        "combine": test.combine,
        "opening": str(standing),
        "digests": export.digests.plain(),
    }
    save_model(
        folder / f"model-{candidate.name}",
        load_model(folder_of_shipped / final_run.MODEL),
        {
            "seed": candidate.seeds[shipped],
            "test": found["shipped"],
            "expected": found["test"],
            "temperature": temperature,
            "operating_points": found["operating_points"],
            **of_final,
        },
    )
    if len(candidate.seeds) > 1:
        report["ensemble"] = write_ensemble(
            folder / f"ensemble-{candidate.name}",
            {seed: folder / "runs" / run_name(candidate, seed, fit) for seed in candidate.seeds},
            stacked,
            lambda mean, own: evaluate(metric, test.task, test.classes, units, mean, 0, own, over, point=point),
            of_final,
        )
    return report, stacked


def compared(
    reports: list[dict[str, Any]],
    probabilities: list[np.ndarray],
    test: Manifest,
    config: TrialConfig,
    margin: float | None,
) -> dict[str, Any] | None:
    """Which configurations can't be told from the best one; None of one alone, or where the metric isn't defined.

    Args:
        probabilities: of each configuration, [S, U, C].
        config: any of them; all have the same metric, averaged over the same classes.
        margin: difference of the metric that wouldn't matter, as it was settled before the search.
    """
    if len(reports) < 2:
        return None
    units = units_of(test)
    recipes = {report["name"]: p for report, p in zip(reports, probabilities, strict=True)}
    try:
        found = comparison_with_best(
            config.metric,
            units.truth,
            recipes,
            units.groups,
            classes=test.classes,
            over=classes_numbered(config.classes_averaged, test.classes),
            margin=margin,
        )
    except Undefined:
        return None
    return asdict(found)


def reseeded_value(values: Sequence[float | None]) -> dict[str, Any] | None:
    """What the trial's value is without its seed's luck: on the same validation set, the mean over the other seeds.
    Which configuration was chosen, and on which images, is still in it.

    Args:
        values: on validation, by seed; the first is the trial's own.

    Returns:
        `value`, the number of its `seeds`, and `own`, the trial's own seed's; None without other seeds, or where
        nothing was validated.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2 or len(known) < len(values):
        return None
    return {"value": float(np.mean(known[1:])), "seeds": len(known) - 1, "own": known[0]}


def _shipped(runs: list[dict[str, Any]], direction: Direction) -> int:
    """The seed with the best validation value; the first where none was validated."""
    values = [run["validation"] for run in runs]
    if any(value is None for value in values):
        return 0
    return int(np.argmax(values) if direction == "maximize" else np.argmin(values))


def _why(fit: Fit, runs: int) -> str:
    if runs == 1:
        return "the only seed"
    return "the best seed on validation" if fit == "train" else "the first seed: with fit all, nothing is selected"


def _save_predictions(path: Path, probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Test predictions, in the order of the test's rows: no names of images, patients or groups."""
    with replacing(path) as file:
        np.savez(file, probabilities=probabilities.astype(np.float32), labels=labels)
