"""medtune's own side: the same list through a real search, whose sampler gives the recorded trials."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.outcome import Done, Outcome
from benchmarks.search.regimes import Recorded, of_plain
from benchmarks.search.setting import Setting
from search import launch
from search.console import Console
from search.folder import SearchFolder
from search.record import Trial
from search.sampler import OF_HEADS, Exhausted, Sampler
from spaces.config import Direction, SearchConfig
from spaces.dimensions import Point, Space
from trainables.data.stored import ACTIVATIONS
from trainables.trial_files import CONFIG, END, trial_folder

OWN = frozenset({"seed", "clip"})  # of a recorded trial, and no dimension of the space


class ListSampler(Sampler):
    """Gives the trials of a list. Trials for one pass are the next of the list that can share it."""

    def __init__(
        self, trials: Sequence[Recorded], config: SearchConfig, space: Space, direction: Direction, _: Sequence[Trial]
    ) -> None:
        super().__init__(space, direction, config.seed, config.sampler, ())
        self.left = [_point(trial, space) for trial in trials]

    def ask(self, number: int) -> Point:
        if not self.left:
            raise Exhausted
        return self.left.pop(0)

    def ask_like(self, number: int, point: Point) -> Point | None:
        def kept(other: Point) -> dict[str, Any]:
            return {name: value for name, value in other.items() if name not in OF_HEADS | OWN}

        place = next((i for i, other in enumerate(self.left) if kept(other) == kept(point)), None)
        return None if place is None else self.left.pop(place)

    def add(self, trial: Trial) -> None: ...

    def end(self, trial: Trial) -> None: ...


class Stopwatch(Console):
    """Prints nothing, and sees how many images were decoded before the first trial, and for how long."""

    def __init__(self) -> None:
        super().__init__(None)
        self.decoded, self.first, self.last = 0, 0.0, 0.0
        self._before, self._total = 0, 0  # of the pass that is under way

    @contextlib.contextmanager
    def working(self, what: str, of: str = "images") -> Iterator[Callable[[int, int], None]]:
        self._before = 0

        def progress(done: int, total: int) -> None:
            self.first, self.last = self.first or time.time(), time.time()
            same = self._before < done and self._before < self._total == total
            self.decoded += done - (self._before if same else 0)  # another pass counts from 0
            self._before, self._total = done, total

        yield progress if of == "images" else lambda done, total: None


def settings(name: str, setting: Setting, trials: int, blocks: Sequence[Any], level: int, home: Path) -> SearchConfig:
    """A search on the baselines' images, backbone and space."""
    side = setting.resolution
    space = {
        "resolution": side, "head": "linear", "trained_blocks": {"choice": list(blocks)}, "adapter": "none",
        "head_lr": {"float": [1e-4, 3e-2], "log": True}, "backbone_lr_ratio": {"float": [1e-2, 1e-1], "log": True},
        "layer_decay": 1.0, "weight_decay": 0.05, "head_weight_decay": {"choice": [0.0, 0.01, 0.05]}, "warmup": 0.1,
        "batch_size": 32, "level": level, "mixup": 0.0, "label_smoothing": {"choice": [0.0, 0.1]},
        "drop_path": 0.0, "ema": 0.0,
    }  # fmt: skip
    return SearchConfig.parse(
        {
            "name": name,
            "dataset": {"reader": "folder", "root": setting.images, "policy": setting.policy},
            "backbones": [setting.backbone],
            "weights": {setting.backbone: setting.weights},
            "space": space,
            "expert_first": False,
            "budget": {"trials": trials, "epochs": setting.epochs},
            "metric": "balanced_accuracy",
            "resources": {"cpus": setting.cpus, "accelerators": setting.accelerators},
            "storage": str(home / "runs"),
            "mlflow": "off",
        },
        "benchmark",
    )


def replay(side: str, trials: Sequence[Recorded], setting: Setting, home: Path) -> Outcome:
    """Runs every trial of a list to its end: side `ours`, or `uncached` without stored activations."""
    blocks = list(dict.fromkeys(trial.trained_blocks for trial in trials))
    config = settings(side, setting, len(trials), blocks, trials[0].level, home)
    changes: dict[str, Any] = {"stopping": config.stopping.model_copy(update={"rule": "off"})}
    if side == "uncached":
        changes["activations"] = 0.0
    watch = Stopwatch()
    found = launch.search(
        config.model_copy(update=changes), home, console=watch, make_sampler=partial(ListSampler, trials)
    )
    by_seed = {trial.seed: trial for trial in trials}
    return _outcome(side, found, watch, lambda trial: by_seed[int(trial.point["seed"])])


def search(side: str, count: int, blocks: Sequence[Any], level: int, setting: Setting, home: Path) -> Outcome:
    """A search of its own, as a person would start it."""
    watch = Stopwatch()
    found = launch.search(settings(side, setting, count, blocks, level, home), home, console=watch)
    return _outcome(side, found, watch, _found)


def _found(trial: Trial) -> Recorded:
    """A search's trial as the baselines would run it."""
    own = {name: value for name, value in trial.point.items() if name in Recorded.__dataclass_fields__}
    return of_plain({"backbone_lr_ratio": 1.0, **own, "seed": trial.seed})  # a ratio isn't asked for heads alone


def _point(trial: Recorded, space: Space) -> Point:
    """As the space would have asked for it, with the trial's own seed.

    Raises:
        ValueError: the space doesn't hold it.
    """
    names = {d.name for d in space.dimensions} | set(space.fixed)
    wanted = {name: value for name, value in asdict(trial).items() if name in names}
    point = space.complete(wanted)
    outside = space.problems({name: value for name, value in wanted.items() if name in point})
    if outside:
        raise ValueError(f"trial {trial.seed}: {outside}")
    return {**point, "seed": trial.seed, "clip": trial.clip}


def _outcome(side: str, found: SearchFolder, watch: Stopwatch, of: Callable[[Trial], Recorded]) -> Outcome:
    beforehand = watch.last - watch.first
    outcome = Outcome(side, building=beforehand, beforehand=beforehand)
    study, computed, decoded = found.study(), 0, watch.decoded
    for trial in study.trials:
        folder = trial_folder(found.path, trial.number)
        if trial.ended is None or trial.state not in ("complete", "pruned"):
            raise RuntimeError(f"trial {trial.number} of {side} {trial.state}: {trial.cause}")
        epochs = [trial.epochs[e] for e in sorted(trial.epochs)]
        values = [float("nan") if epoch.value is None else epoch.value for epoch in epochs]
        times = [epoch.time for epoch in epochs]
        outcome.trials.append(Done(of(trial), values, (folder / CONFIG).stat().st_mtime, times[-1], times))
        if (folder / END).exists():
            end = json.loads((folder / END).read_text(encoding="utf-8"))[-1]
            computed += end.get("counts", {}).get("computed", 0)
            decoded += end.get("counts", {}).get("decoded", 0)
    builds = list((found.path.parent / "cache" / ACTIVATIONS).glob("*/meta.json"))
    shapes = [json.loads(meta.read_text(encoding="utf-8"))["shape"] for meta in builds]
    outcome.counts |= {
        "decoded": decoded,
        "computed": computed,
        "builds": len(builds),
        "kept": sum(shape[0] for shape in shapes),
    }
    if builds:
        outcome.building += _first_epochs_excess(study.trials, outcome.trials)
    return outcome


def _first_epochs_excess(trials: Sequence[Trial], done: Sequence[Done]) -> float:
    """About how long jobs took over what they kept, summed over jobs: what an epoch took beyond the median of its job,
    and what came before the first. Loading weights and waiting for another job's building are in it."""
    jobs: dict[str, list[float]] = {}
    for trial, of_trial in zip(trials, done, strict=True):
        times = [of_trial.started, *(trial.epochs[e].time for e in sorted(trial.epochs))]
        took = np.diff(times)
        excess = float(np.clip(took - np.median(took), 0, None).sum())
        jobs.setdefault(trial.job, []).append(excess)
    return sum(max(excesses) for excesses in jobs.values())
