"""A run with several workers, through Ray Train."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path

from search.cluster import check_address, check_cluster, connect
from search.console import chatter_to
from search.launch import RAY_SETTINGS
from search.plan import this_machine_has
from spaces.config import ResourcesConfig
from spaces.mistakes import Mistake
from trainables.final_run import RunOrder


def check_room(wanted: ResourcesConfig, workers: int) -> None:
    """That a run's group of workers fits, as far as that can be known without being connected to a cluster.

    Raises:
        Mistake: it doesn't.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address in (None, "local"):
        _refuse_too_many(wanted.cpus, wanted.accelerators, workers, *this_machine_has(wanted))
        return
    check_address(address)
    os.environ.update({name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()})
    import ray

    with chatter_to(Path(os.devnull)):
        check_cluster(
            ray, address, ResourcesConfig(cpus=wanted.cpus, accelerators=wanted.accelerators, workers=workers)
        )


def run_group(order: RunOrder, workers: int) -> None:
    """Runs a final's run in a group of workers that share each global batch (DDP; gloo on CPUs, nccl on accelerators).

    The batch size is the global one: every worker takes its part, so that the result is that of one worker up to the
    order of summation. The cluster is that of RAY_ADDRESS, or one on this machine.

    Raises:
        Mistake: the cluster hasn't room for that many workers.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()})
    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with chatter_to(folder / "log.txt"):
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from trainables.job import train_worker

        connect(ray, os.environ.get("RAY_ADDRESS"))
        try:
            has = ray.cluster_resources()
            _refuse_too_many(order.threads, order.accelerators, workers, has.get("CPU", 0), has.get("GPU", 0))
            trainer = TorchTrainer(
                train_worker,
                train_loop_config=asdict(order),
                scaling_config=ScalingConfig(
                    num_workers=workers,
                    use_gpu=order.accelerators > 0,
                    resources_per_worker={
                        "CPU": order.threads,
                        **({"GPU": order.accelerators} if order.accelerators else {}),
                    },
                ),
                run_config=RunConfig(name="train", storage_path=str(folder / "ray")),
            )
            trainer.fit()
        finally:
            ray.shutdown()
            shutil.rmtree(folder / "ray", ignore_errors=True)


def _refuse_too_many(threads: int, shares: float, workers: int, cpus: float, accelerators: float) -> None:
    if threads * workers > cpus or shares * workers > accelerators:
        raise Mistake(
            f"final: {workers} workers ask for {threads * workers} CPUs and {shares * workers:g} accelerators, but "
            f"there are {cpus:g} and {accelerators:g}; ask for fewer workers."
        )
