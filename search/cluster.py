"""A Ray cluster: connecting to it, the code that is shipped to it, its nodes, and how many trials run there at once."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaces.config import ResourcesConfig
from spaces.mistakes import Mistake

PACKAGES = ("spaces", "trainables", "search")
"""What workers run, shipped with every connection; never data, nor what else lies beside these folders."""
ALIVE = 0  # a node's state, as Ray numbers them
LOOK = 5.0  # seconds between two looks at which nodes are there


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    id: str
    name: str
    """Its address, with the name it was started under where it has one."""
    cpus: int
    accelerators: float
    labels: Mapping[str, str] = field(default_factory=dict)


def connect(ray: Any, address: str | None) -> None:
    """A cluster at an address, or a new one on this machine, open to this machine only.

    Raises:
        Mistake: the cluster can't be connected to, which a wrong token is a cause of; or this machine is too busy for a
            new one to come up in the 30 s that Ray gives it.
    """
    if address is None:
        _start_here(ray)
        return
    packages = [str(Path(__file__).parents[1] / name) for name in PACKAGES]
    try:
        ray.init(address=address, log_to_driver=False, runtime_env={"py_modules": packages})
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise _not_connected(address, first_line(error)) from None


def _start_here(ray: Any) -> None:
    try:
        with _on_loopback():
            ray.init(
                address="local",  # never a cluster that happens to run here
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=128 * 2**20,
                _temp_dir=os.environ.get("RAY_TMPDIR"),
            )
    except Exception as error:  # a bare one, with only its words to know it by
        if "timed out during startup" not in str(error):
            raise
        raise Mistake(
            "Ray didn't come up on this machine within the 30 s that it waits, as happens where too much else runs "
            f"(load {os.getloadavg()[0]:.0f}, {len(os.sched_getaffinity(0))} CPUs). Nothing is lost: try again later; "
            "a search that has begun goes on with medtune resume."
        ) from None


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray, started inside, has all its sockets on 127.0.0.1. By itself it takes the machine's address, and some of what
    listens there knows no token. It does so where RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, which it reads when imported."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def check_labels(wanted: ResourcesConfig, address: str | None) -> None:
    """That nodes aren't to be chosen where there is no cluster.

    Raises:
        Mistake: they are.
    """
    if address is None and wanted.labels:
        raise Mistake(
            "resources.labels: they choose among a cluster's nodes; give its --address, or leave them out on one "
            "machine (--set resources.labels={})."
        )


def check_address(address: str, seconds: float = 5) -> None:
    """That something answers at a cluster's address.

    Raises:
        Mistake: nothing does, or it is no address.
    """
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise Mistake(
            f"--address {address}: Ray Client can't drive a search, which would end with the connection; give "
            "HOST:PORT (6379 by default) on a machine of the cluster, or submit it there with ray job submit."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Mistake(f'--address {address}: expected "auto" or "HOST:PORT".')
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except (OSError, OverflowError) as error:
        raise Mistake(f"--address {address}: nothing answers there ({error}); start the cluster.") from None


def check_cluster(ray: Any, address: str, wanted: ResourcesConfig, seconds: float = 5) -> None:
    """That a Ray cluster answers at an address, takes this process's token, and has what trials ask for. To be called
    before the data are looked at; `connect` would find out later, and try for 20 s or more.

    Raises:
        Mistake: it doesn't.
    """
    if address == "auto":
        return
    failed: list[str] = ["no answer"]
    there: list[Node] = []

    def ask() -> None:
        try:
            client = ray._raylet.GcsClient(address=address)  # which asks for the cluster's identity
            told = client.get_all_node_info(timeout=seconds)
            there.extend(_node_told(one, info) for one, info in told.items() if info.state == ALIVE)
            failed.clear()
        except Exception as error:  # of its own classes
            failed[0] = first_line(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    if failed:
        raise _not_connected(address, failed[0])
    trials_at_once(wanted, there)


def _node_told(node: Any, info: Any) -> Node:
    """From what the cluster's head tells without being connected to (Ray's GcsNodeInfo)."""
    has = {"CPU": 0.0, "GPU": 0.0} | dict(info.resources_total)
    named = {"NodeID": node.hex(), "NodeName": info.node_name, "NodeManagerAddress": info.node_manager_address}
    return _node({**named, "Resources": has, "Labels": dict(info.labels)})


def _not_connected(address: str | None, why: str) -> Mistake:
    return Mistake(  # Ray logs a wrong token, and then says that it can't connect
        f"--address {address}: can't be connected to ({why}); start the cluster, or give this process the "
        "cluster's token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)."
    )


def first_line(error: BaseException) -> str:
    """Of an error's words, for a sentence."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def nodes(ray: Any) -> list[Node]:
    """The nodes of the cluster that is connected to, that are alive, by name."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return sorted((_node(node) for node in alive), key=lambda node: (node.name, node.id))


def _node(told: dict[str, Any]) -> Node:
    address, name = told["NodeManagerAddress"], told.get("NodeName") or ""
    has = told["Resources"]
    return Node(
        told["NodeID"],
        f"{name} ({address})" if name not in ("", address) else address,
        int(has.get("CPU", 0)),
        has.get("GPU", 0),
        told.get("Labels") or {},
    )


def wanted_of(wanted: ResourcesConfig, there: Sequence[Node]) -> list[Node]:
    """The nodes that trials may run on, by their labels."""
    return [node for node in there if all(chosen(node.labels.get(k), how) for k, how in wanted.labels.items())]


def chosen(value: str | None, selector: str) -> bool:
    """Whether a label's value (None: the node hasn't it) is chosen, as Ray understands `a`, `!a`, `in(a,b)` and
    `!in(a,b)`."""
    named = selector.removeprefix("!")
    values = named[3:-1].replace(" ", "").split(",") if named.startswith("in(") else [named]
    return (value in values) != selector.startswith("!")


def fitting(wanted: ResourcesConfig, node: Node) -> int:
    """How many workers a node has room for; a worker lies on one node. 0 where its labels aren't those asked for."""
    if not wanted_of(wanted, [node]):
        return 0
    fit = node.cpus // wanted.cpus
    if wanted.accelerators:
        fit = min(fit, int(node.accelerators) * sharing(wanted.accelerators))
    return fit


def sharing(accelerators: float) -> int:
    """How many workers share an accelerator of which each takes a fraction in (0, 1]: five of .2 each, as Ray counts,
    in ten-thousandths."""
    return 10_000 // max(1, round(accelerators * 10_000))


def room(wanted: ResourcesConfig, there: Sequence[Node]) -> int:
    """How many trials fit on the nodes that are there."""
    return sum(fitting(wanted, node) for node in there) // wanted.workers


class Room:
    """How many trials may be under way: the number that was asked for, or what fits on the nodes that are there now."""

    def __init__(
        self, ray: Any, wanted: ResourcesConfig, at_first: int, seen: Callable[[Sequence[Node]], None] = lambda _: None
    ) -> None:
        """
        Args:
            seen: is told which nodes are there, every few seconds.
        """
        self.ray, self.wanted, self.fit, self.seen = ray, wanted, at_first, seen
        self.looked = time.monotonic()

    def __call__(self) -> int:
        if time.monotonic() - self.looked >= LOOK:
            self.looked = time.monotonic()
            there = nodes(self.ray)
            self.seen(there)
            if self.wanted.concurrent == "auto":
                self.fit = max(1, room(self.wanted, there))  # where all have gone, one waits for the next
        return self.fit


def trials_at_once(wanted: ResourcesConfig, there: Sequence[Node]) -> tuple[int, list[str]]:
    """How many trials may be under way on a cluster, and what a person should know of it.

    A number that was asked for is kept where fewer fit: on a cluster that grows, nodes come when trials wait.

    Raises:
        Mistake: as many as fit are asked for, and none does.
    """
    fit = room(wanted, there)
    a_trial = f"{wanted.cpus} CPUs and {wanted.accelerators:g} accelerators"
    if wanted.labels:
        a_trial += f" where {', '.join(f'{label} is {value}' for label, value in wanted.labels.items())}"
    if wanted.workers > 1:
        a_trial = f"{wanted.workers} times {a_trial}"
    if wanted.concurrent == "auto":
        if not fit:
            has = "; ".join(f"{node.name}: {node.cpus} CPUs, {node.accelerators:g} accelerators" for node in there)
            raise Mistake(
                f"resources: a trial asks for {a_trial} on one node, but no node has them ({has or 'none is alive'}); "
                "ask for less, start such nodes, or, where nodes come by themselves when trials wait, say how many "
                "trials run at once in resources.concurrent."
            )
        return fit, []
    notices = []
    if wanted.concurrent > fit:
        notices = [
            f"{wanted.concurrent} concurrent trials are asked for, of {a_trial} each, and {fit} fit on the "
            f"{len(there)} nodes that are there now: the others wait for further nodes."
        ]
    return wanted.concurrent, notices
