"""Fine-tunes in a process of its own, and in groups of four and two processes with gloo.

Run as `python -m tests.trainables.elsewhere FOLDER`; reads order.json there and writes found.json.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from spaces.config import DatasetConfig, TrialConfig
from tests.trainables.digits import Digits
from trainables import checkpoint, loop, sharding
from trainables.data.parts import TrialData
from trainables.data.units import Units
from trainables.epoch import EpochReport
from trainables.inference import predict
from trainables.loop import Outcome, fine_tune
from trainables.model import build_model
from trainables.place import Place
from trainables.prefix import ActivationStore, Prefix

WORLDS = (4, 2)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    order = json.loads((folder / "order.json").read_text())
    digits = Digits(Path(order["folder"]), DatasetConfig.model_validate(order["dataset"]))
    configs = {name: TrialConfig.model_validate(config) for name, config in order["configs"].items()}
    # Forked before torch has computed anything, so that its slow import is paid once.
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(folder, rank, digits, configs)) for rank in range(max(WORLDS))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit(f"workers ended with {[worker.exitcode for worker in workers]}")
    found = json.loads((folder / "group.json").read_text())
    for name in ("dinov2_tiny", "mae_tiny"):
        found[name] = plain(fine_tune(configs[name], digits.data(configs[name])))
    (folder / "found.json").write_text(json.dumps(found))


def work(folder: Path, rank: int, digits: Digits, configs: dict[str, TrialConfig]) -> None:
    """What one process does, in a group of each size that has room for it."""
    found: dict[str, Any] = {}
    for world in WORLDS:
        if rank >= world:
            continue
        meeting = f"file://{folder / f'meeting-{world}'}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
        place = Place(rank=rank, world=world)
        found[f"place {world}"] = of_place(place)
        for name in ("plain", "mixup"):
            data = digits.data(configs[name])
            with rows_computed() as rows:
                outcome = fine_tune(configs[name], data, place=place)
            found[f"rows of {name} {world}"] = place.collect(rows)
            part, units = data.validation, data.validation.units
            first = Units(np.arange(3), units.truth[:3], units.groups[:3], units.combine, {})
            few = replace(part, pixels=part.pixels[:3], labels=part.labels[:3], units=first)
            probabilities = predict(outcome.model, configs[name], few, place)
            found[f"{name} {world}"] = {**plain(outcome), "few": probabilities.tolist()}
        config, store = configs["head"], ActivationStore(folder / f"kept-{world}", 1 << 30)
        outcome = fine_tune(config, digits.data(config), place=place, store=store)
        found[f"kept {world}"] = place.collect(vars(outcome.counts))
        config = configs["shared out"]
        found[f"shared out {world}"] = plain(fine_tune(config, digits.data(config), place=place, shard=True))
        found[f"held {world}"] = place.collect(held(config, place))
        if world == 2:
            for name, shard in (("resumed", False), ("resumed, shared out", True)):
                data = digits.data(configs["resumed"])
                found[name] = resumed(folder / name, configs["resumed"], data, place, shard)
        dist.destroy_process_group()
    if rank == 0:
        (folder / "group.json").write_text(json.dumps(found))


@contextmanager
def rows_computed() -> Iterator[dict[str, list[int]]]:
    """The rows of both parts whose images this process lets through the network, in their order."""
    rows: dict[str, list[int]] = {"train": [], "validation": []}

    class Counting(Prefix):
        def _given(self, asked: Tensor, gathered: Tensor | None) -> Tensor:
            rows["train" if self.augment else "validation"] += asked.tolist()
            return super()._given(asked, gathered)

    with patch.object(loop, "Prefix", Counting):
        yield rows


def held(config: TrialConfig, place: Place) -> dict[str, int]:
    """How many weights of the blocks there are, and how many of them this process holds."""
    model = build_model(config, 10)
    whole = sum(weight.numel() for block in sharding.blocks(model.backbone) for weight in block.parameters())
    sharding.shard(model.backbone, place)
    mine = [sharding.own(weight) for block in sharding.blocks(model.backbone) for weight in block.parameters()]
    return {"whole": whole, "own": sum(weight.numel() for weight in mine)}


def resumed(folder: Path, config: TrialConfig, data: TrialData, place: Place, shard: bool) -> dict[str, Any]:
    """A run, and one from its checkpoint after the first epoch."""

    def keep_first(report: EpochReport) -> None:
        if report.epoch == 1:
            shutil.copytree(folder / "whole", folder / "second")

    whole = fine_tune(config, data, folder / "whole", keep_first, place, shard=shard)
    told: list[int] = []
    rest = fine_tune(config, data, folder / "second", lambda report: told.append(report.epoch), place, shard=shard)
    states = checkpoint.load(folder / "whole" / "checkpoints" / "epoch-0002")
    alike = torch.equal(states.kind("random0")["cpu"], states.kind("random1")["cpu"])
    return {"whole": plain(whole), "rest": plain(rest), "told": told, "workers draw alike": alike}


def of_place(place: Place) -> dict[str, Any]:
    """What a place's functions give, of values that name their rank."""
    total = 7
    own = torch.arange(place.rank, total, place.world)
    return {
        "sum": place.sum(torch.tensor([1.0, float(place.rank)])).tolist(),
        "gather": place.gather(torch.stack([own, own * 10], dim=1), total).tolist(),
        "collect": place.collect({"rank": place.rank}),
        "first": place.first,
    }


def plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "losses": np.array([report.step_losses for report in outcome.reports]).tolist(),
        "values": [asdict(report)["value"] for report in outcome.reports],
        "probabilities": outcome.probabilities.tolist(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
