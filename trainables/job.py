"""What Ray runs: a job of one or more trials in an actor that outlives it, or one worker of a final run.

Everything a job does is told to the driver by `tune.report`, as one JSON text under `message` (Tune flattens what is
nested): a list of {"trial": number, "epoch": {...}} after an epoch, {"trial": number, "end": {...}} when a trial is
over, or both. The driver writes the record. Trials of one job train their heads in one pass; the driver stops one of
them by a file in its folder, since Tune can only stop a job.

The driver imports this module to name what is to be run, so that what trains is imported where it runs: torch and timm
take a driver ten seconds that nothing would use.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.util.queue import Empty, Queue

if TYPE_CHECKING:
    from trainables.place import Place
    from trainables.trials import Message

MESSAGE = "message"
LOOK = 0.2  # seconds between two looks at whether a group has ended


def run_job(order: dict[str, Any]) -> None:
    """A Tune function: runs a job's trials. `order` is a `trainables.trials.JobOrder`."""
    from trainables import trials

    trials.run(order, _report)


def run_job_in_group(order: dict[str, Any]) -> None:
    """A Tune function: has several workers train a job's trial together, through Ray Train.

    The workers' messages come through a queue: Ray Train's own reports would have to be made by all of them at once.
    """
    from ray.train import RunConfig, ScalingConfig  # only here: it takes seconds
    from ray.train.torch import TorchTrainer

    from trainables import trials

    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)  # of the cluster, should there be two
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # an actor less
    messages = Queue(actor_options={"num_cpus": 0})
    resources = {"CPU": order["threads"]} | ({"GPU": order["accelerators"]} if order["accelerators"] else {})
    labels: dict[str, Any] = {"label_selector": order["labels"] or None}  # which the class that mypy sees, V1's, lacks
    trainer = TorchTrainer(
        search_worker,
        train_loop_config={"order": order, "messages": messages},
        scaling_config=ScalingConfig(
            num_workers=order["workers"],
            use_gpu=bool(order["accelerators"]),
            resources_per_worker=resources,
            **labels,
        ),
        run_config=RunConfig(name=order["job"], storage_path=str(Path(order["search"]) / "ray" / "train")),
    )
    try:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(trainer.fit)
            while not running.done() or not messages.empty():
                with suppress(Empty):
                    _report(messages.get(timeout=LOOK))
            if running.exception() is not None and not trials.tell_ends(order, _report):
                running.result()
    finally:
        messages.shutdown(force=True)


def search_worker(given: dict[str, Any]) -> None:
    """A Ray Train function: one worker of a trial."""
    import torch

    from trainables import trials

    order = given["order"]
    torch.set_num_threads(order["threads"])
    trials.run(order, given["messages"].put, _place())


def train_worker(order: dict[str, Any]) -> None:
    """A Ray Train function: one worker of a final run. `order` is a `trainables.final_run.RunOrder` as plain data."""
    from trainables import final_run
    from trainables.final_run import RunOrder

    final_run.run(RunOrder(**order), _place(), lambda epoch: None)


def _place() -> Place:
    from ray import train
    from ray.train.torch import get_device

    from trainables.place import Place

    context = train.get_context()
    return Place(get_device(), context.get_world_rank(), context.get_world_size())


def _report(messages: list[Message]) -> None:
    tune.report({MESSAGE: json.dumps(messages)})
