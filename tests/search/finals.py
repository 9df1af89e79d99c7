"""A search's record with made-up values on real digits, and a real final of it: seconds, and no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search import folder as folders
from search.export import export
from search.final import final
from search.folder import SearchFolder
from search.identity import identity
from search.plan import plan
from search.record import Epoch, State
from search.sampler import Sampler
from search.study import Study, open_storage
from spaces.config import SearchConfig

SETTINGS: dict[str, Any] = {
    "name": "made",
    "dataset": {"reader": "folder", "root": "images", "policy": "digits"},
    "backbones": ["dinov2_tiny", "mae_tiny"],
    "weights": "random",
    "metric": "macro_auroc",
    "classes_averaged": ["1", "4", "7"],
    "comparison": {"margin": 0.9},
    "space": {"batch_size": 32, "head": "linear", "trained_blocks": 0, "head_lr": 5e-3},
    "budget": {"trials": 2, "epochs": 2},
    "strategy": "compare",
    "mlflow": "off",
}


def search_of(folder: Path, **changes: Any) -> SearchFolder:
    """A search on the digits in `folder`/images, with a complete trial of each backbone."""
    config = SearchConfig.parse({**SETTINGS, "storage": str(folder / "runs"), **changes}, "test")
    planned = plan(config, folder)
    found = folders.create(planned, identity(planned))
    study = Study.open(open_storage(found.path, None), config.name)
    sampler = Sampler(planned.space, planned.direction, 0, "random", [])
    for number, backbone in enumerate(config.backbones):
        point = planned.space.complete({"backbone": backbone})
        keyed, distributions = planned.space.keyed(point), sampler.distributions(point)
        study.add(point, keyed, distributions, seed=number, job=f"job-{number:05d}", why="test")
        for epoch in (1, 2):
            study.epoch(number, Epoch(epoch, 0.9, 0.02, 1.0, {}, 1.0, study.trials[number].started + epoch))
        study.end(number, State.COMPLETE, "", 0.9)
    return found


def final_of(found: SearchFolder, seeds: int = 2, **more: Any) -> Path:
    """The folder of a final of the best of each backbone."""
    written = export(found, found.path / "best.yaml", per="backbone")
    return final([path for path, _ in written], seeds=seeds, **more)
