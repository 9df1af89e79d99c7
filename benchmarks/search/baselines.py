"""The two baselines under Ray Tune: replaying a list, or searching by themselves with OptunaSearch and ASHA."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.search.outcome import Done, Outcome
from benchmarks.search.regimes import Recorded, of_plain
from benchmarks.search.setting import Setting

RAY_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def replay(side: str, trials: Sequence[Recorded], setting: Setting, cpus: int, home: Path) -> Outcome:
    """Runs every trial of a list to its end, in the list's order."""
    from ray import tune

    outcome = Outcome(side)
    resized = _resized(outcome, setting, max(t.level for t in trials), home, cpus) if side == "strong" else ""
    results = _tuned(
        side, setting, resized, cpus, home, {"trial": tune.grid_search([asdict(trial) for trial in trials])},
        tune.TuneConfig(reuse_actors=side == "strong"),
    )  # fmt: skip
    return _filled(outcome, results)


def search(
    side: str, count: int, blocks: Sequence[Any], level: int, setting: Setting, cpus: int, home: Path
) -> Outcome:
    """A search over the space that `benchmarks.search.ours.search` searches."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    outcome = Outcome(side)
    resized = _resized(outcome, setting, level, home, cpus) if side == "strong" else ""
    space = {
        "trained_blocks": tune.choice(list(blocks)),
        "head_lr": tune.loguniform(1e-4, 3e-2),
        "backbone_lr_ratio": tune.loguniform(1e-2, 1e-1),
        "head_weight_decay": tune.choice([0.0, 0.01, 0.05]),
        "label_smoothing": tune.choice([0.0, 0.1]),
    }
    tuning = tune.TuneConfig(
        search_alg=OptunaSearch(metric="value", mode="max", seed=0),
        scheduler=ASHAScheduler(
            time_attr="epoch", metric="value", mode="max", max_t=setting.epochs,
            grace_period=max(1, setting.epochs // 4), reduction_factor=2,
        ),
        num_samples=count, max_concurrent_trials=setting.slots(cpus), reuse_actors=side == "strong",
    )  # fmt: skip
    results = _tuned(side, setting, resized, cpus, home, {"trial": {"seed": 0, "level": level, **space}}, tuning)
    return _filled(outcome, results)


def _resized(outcome: Outcome, setting: Setting, level: int, home: Path, cpus: int) -> str:
    """Resizes all images, and notes what it cost."""
    from benchmarks.search.strong import resize_all

    started, output = time.time(), home / "resized"
    output.mkdir()
    outcome.counts["decoded"] = resize_all(setting, level, output, cpus)
    outcome.building = outcome.beforehand = time.time() - started
    return str(output)


def run(config: dict[str, Any], side: str, setting: Setting, resized: str) -> None:
    """A Tune function: one trial. The model is kept at its end."""
    import torch
    from ray import tune
    from torch import nn

    def report(figures: dict[str, Any], model: nn.Module | None) -> None:
        if model is None:
            tune.report(figures)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(model.state_dict(), Path(folder) / "model.pt")
            tune.report(figures, checkpoint=tune.Checkpoint.from_directory(folder))

    trial = of_plain(config["trial"])
    if side == "plain":
        from benchmarks.search import plain

        plain.fine_tune(trial, setting, report)
    else:
        from benchmarks.search import strong

        strong.fine_tune(trial, setting, resized, report)


def _tuned(side: str, setting: Setting, resized: str, cpus: int, home: Path, space: dict[str, Any], tuning: Any) -> Any:
    os.environ.update(RAY_SETTINGS)
    import ray
    from ray import tune

    ray.init(
        address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False,
        object_store_memory=128 * 2**20, _temp_dir=os.environ.get("RAY_TMPDIR"),
    )  # fmt: skip
    try:
        resources = {"cpu": setting.cpus, "gpu": setting.accelerators}
        return tune.Tuner(
            tune.with_resources(partial(run, side=side, setting=setting, resized=resized), resources),
            param_space=space,
            tune_config=tuning,
            run_config=tune.RunConfig(name=side, storage_path=str(home / "ray"), verbose=0),
        ).fit()
    finally:
        ray.shutdown()


def _filled(outcome: Outcome, results: Any) -> Outcome:
    for result in results:
        if result.error is not None:
            raise RuntimeError(f"a trial of the baseline {outcome.side} failed: {result.error}")
        told, last = result.metrics_dataframe, result.metrics
        for name in ("decoded", "computed"):
            outcome.counts[name] = outcome.counts.get(name, 0) + int(last[name])
        outcome.trials.append(
            Done(
                of_plain(result.config["trial"]),
                [float(value) for value in told.sort_values("epoch")["value"]],
                float(last["started"]),
                float(last["ended"]),
                [float(time) for time in told.sort_values("epoch")["ended"]],
            )
        )
    return outcome
