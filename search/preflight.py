"""What is looked at on every node of a cluster before the first trial: one task a node, in seconds.

Each node tells what it runs (Python, packages, our code), whether it sees the storage as this process does (a mark
written by each is read by all), the same images, as many accelerators as it was started with, and room for what trials
keep there. Everything that is wrong is told at once. Nodes that come later are looked at when they join
(search/newcomers.py), each by itself.

`look` and `unseen` run on the nodes; what they need is imported in seconds, so torch only where accelerators count.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args

from search.cluster import PACKAGES, Node, first_line, nodes, trials_at_once, wanted_of
from search.shadowing import finder, shadowed
from spaces.mistakes import Mistake
from spaces.sources import DECODERS
from trainables.data.stored import ACTIVATIONS, PIXELS
from trainables.files import write_text

if TYPE_CHECKING:
    from search.plan import Plan

VERSIONS = ("ray", "torch", "torchvision", "timm", "numpy", *DECODERS)
# NVIDIA's oldest driver by torch's major version of CUDA:
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
DRIVERS = {"12": 525, "13": 580}
SAMPLES = 3  # images that every node reads
PATIENCE = 120.0  # seconds for all nodes to answer; a node's first task unpacks our packages and starts a process
LAG = 10.0  # seconds that network file systems may take to show a new file elsewhere
GIB = 2**30
MARKS = ".preflight-"
T = TypeVar("T")
Field = Literal["storage", "dataset", "cache", "checkpoints"]


class Question(TypedDict):
    """What a node is asked, as plain data."""

    name: str
    """Of the node's own mark."""
    storage: str
    """The search's folder."""
    marks: str
    """Folder in it that the driver made, with its own mark."""
    root: str
    samples: list[tuple[str, str]]
    """Images: path relative to root, content hash."""
    cache: str
    pixels: dict[str, int]
    """Bytes of each file of pixels that trials map, by its path in the cache."""
    activations: int
    """Bytes that were asked for by number; 0 where a share of what is free is taken."""
    checkpoints: str
    """Address in an object store; empty where checkpoints lie in the storage."""
    accelerators: bool


class Packages(TypedDict):
    """What a process runs."""

    python: str
    """Major and minor version."""
    versions: dict[str, str]


class Seen(Packages):
    """What a node tells. Problems are clauses that go on after the node's name; empty where nothing is wrong."""

    storage: str
    dataset: str
    cache: str
    checkpoints: str
    accelerators: int
    """That torch can use; 0 where none are asked for."""
    cuda: str
    """Version that torch was built for; empty where it was built without CUDA, or none are asked for."""


def preflight(ray: Any, plan: Plan, folder: Path) -> tuple[int, list[str]]:
    """Looks at every node of the cluster that is connected to and that trials may run on.

    Args:
        folder: the search's own.

    Returns:
        How many trials run at once, and what a person should know.

    Raises:
        Mistake: everything that is wrong, and where.
    """
    for cut_off in folder.glob(f"{MARKS}*"):
        shutil.rmtree(cut_off, ignore_errors=True)
    there = nodes(ray)  # of a mixed cluster, nodes that trials never run on may be as they like
    problems: list[str] = []
    at_once = 0
    notices: list[str] = []
    try:
        at_once, notices = trials_at_once(plan.config.resources, there)
    except Mistake as mistake:
        problems += mistake.sentences
    problems += look_at(ray, plan, folder, wanted_of(plan.config.resources, there))
    if problems:
        raise Mistake(*problems)
    return at_once, notices


def look_at(ray: Any, plan: Plan, folder: Path, there: list[Node], patience: float | None = PATIENCE) -> list[str]:
    """Looks at nodes, all at the same time, and says what is wrong there.

    Args:
        folder: the search's own.
        patience: seconds for all to answer; None waits for ever.
    """
    problems: list[str] = []
    marks = folder / f"{MARKS}{secrets.token_hex(6)}"
    asked = question(plan, folder, marks)
    write_text(marks / "driver", "driver")
    try:
        there, strange = _with_our_packages(ray, there, patience)
        problems += strange
        seen, lost = _on_each(ray, there, look, lambda node: ({**asked, "name": node.id},), patience)
        problems += lost
        mine = look_at_packages()
        for node in there:
            if node.id in seen:
                problems += told(node, seen[node.id], mine, asked["accelerators"])
        sound = [node for node in there if node.id in seen and not seen[node.id]["storage"]]
        problems += _sharing(ray, sound, marks, patience)
    finally:
        shutil.rmtree(marks, ignore_errors=True)
    return problems


def _with_our_packages(ray: Any, there: list[Node], patience: float | None) -> tuple[list[Node], list[str]]:
    """The nodes that would import this process's packages, which alone can be asked more, and what is wrong with the
    others."""
    find = finder()
    found, problems = _on_each(ray, there, find, lambda node: (PACKAGES,), patience)
    mine, sound = find(PACKAGES), []
    for node in there:
        if node.id in found:
            sentences = shadowed(node.name, found[node.id], mine)
            problems += sentences
            sound += [] if sentences else [node]
    return sound, problems


def question(plan: Plan, folder: Path, marks: Path) -> Question:
    """What every node is asked; `name` is still empty."""
    manifest, config = plan.prepared.manifest, plan.config
    rows = sorted({int(i * (len(manifest) - 1) / max(1, SAMPLES - 1)) for i in range(SAMPLES)})
    return {
        "name": "",
        "storage": str(folder),
        "marks": str(marks),
        "root": config.dataset.root,
        "samples": [(str(manifest.paths[row]), str(manifest.contents[row])) for row in rows],
        "cache": str(plan.cache),
        "pixels": pixel_files(plan),
        "activations": 0 if isinstance(config.activations, str) else int(config.activations * GIB),
        "checkpoints": config.checkpoints or "",
        "accelerators": config.resources.accelerators > 0,
    }


def pixel_files(plan: Plan) -> dict[str, int]:
    """Bytes of the files of pixels that trials map, by their path in the cache. The plan has made them here."""
    from search.plan import pixels_of_trials, policies_of
    from trainables.data.pixels import open_many

    config, space, prepared = plan.config, plan.space, plan.prepared
    policies = policies_of(config, space, prepared.manifest.policy)
    files = {}
    for rows, specs in pixels_of_trials(config, space, prepared, policies):
        for pixels in open_many(prepared.manifest.take(rows), specs, plan.cache):
            files[f"{PIXELS}/{pixels.key}"] = pixels.array.nbytes
    return files


def look(asked: Question) -> Seen:
    """What a node sees. Runs there."""
    accelerators, cuda = _accelerators() if asked["accelerators"] else (0, "")
    return {
        **look_at_packages(),
        "storage": _storage(asked),
        "dataset": _dataset(asked),
        "cache": _cache(asked),
        "checkpoints": _checkpoints(asked),
        "accelerators": accelerators,
        "cuda": cuda,
    }


def look_at_packages() -> Packages:
    """What this process runs."""
    versions = {}
    for package in VERSIONS:
        try:
            versions[package] = metadata.version(package).partition("+")[0]  # builds for CPUs and CUDA mix on purpose
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "versions": versions,
    }


def _storage(asked: Question) -> str:
    """Whether the search's folder is there, is the driver's, and can be written to; leaves the node's mark."""
    storage, marks = Path(asked["storage"]), Path(asked["marks"])
    if not _soon(storage.is_dir):
        return f"has no folder {storage}; mount the storage that all nodes share there"
    if not _soon((marks / "driver").is_file):
        return f"has a folder {storage} of its own, without what this process writes; mount the shared storage there"
    try:
        write_text(marks / asked["name"], asked["name"])
    except OSError as error:
        return f"can't write to {storage} ({error.strerror}); let user {os.getuid()}, who runs Ray there, write to it"
    return ""


def _dataset(asked: Question) -> str:
    """Whether some images are there, and the driver's."""
    from trainables.data.contents import content_hash

    root = Path(asked["root"])
    if not root.is_dir():
        return f"has no folder {root}, the dataset's root; mount the data there"
    for path, expected in asked["samples"]:
        try:
            found = content_hash((root / path).read_bytes())
        except OSError as error:
            return f"can't read {path} in {root} ({error.strerror}); mount the same data there, readable for Ray's user"
        if found != expected:
            return f"has another image than this process at {path} in {root}; mount the same data there"
    return ""


def _cache(asked: Question) -> str:
    """Whether the cache can be written to, and has room for what isn't there yet."""
    cache = Path(asked["cache"])
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return f"can't write to the cache {cache}; name another folder (cache)"
    from trainables.data.stored import unwanted

    kept = sum(file.stat().st_size for file in (cache / ACTIVATIONS).glob("*/array"))
    pixels = sum(size for path, size in asked["pixels"].items() if not (cache / path).exists())
    old = [folder for folder in unwanted(cache / PIXELS) if f"{PIXELS}/{folder.name}" not in asked["pixels"]]
    unneeded = sum(map(_bytes, old))  # makes room where it has to
    needed, free = pixels + max(0, asked["activations"] - kept), shutil.disk_usage(there).free + unneeded
    if needed > free:
        return (
            f"has {free / GIB:.1f} GiB free in {there}, but {needed / GIB:.1f} GiB are needed ({pixels / GIB:.1f} for "
            "decoded images, the rest for activations); free space, lower activations, or name another folder (cache)"
        )
    return ""


def _checkpoints(asked: Question) -> str:
    """Whether the object store can be written to and read from."""
    from trainables.object_store import ObjectFolder

    address = asked["checkpoints"]
    refused = ObjectFolder(address).refused() if address else ""
    return f"can't keep anything at {address} ({refused}); let it, by its role or environment" if refused else ""


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _accelerators() -> tuple[int, str]:
    """How many torch can use, and the version of CUDA that it was built for."""
    import torch

    # The count alone asks the driver's own library, which counts accelerators that a driver too old lets nobody use.
    return torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.version.cuda or ""


def unseen(marks: str, names: list[str]) -> list[str]:
    """Which nodes' marks can't be read. Runs on every node, after all have left theirs."""

    def readable(name: str) -> bool:
        try:
            return (Path(marks) / name).read_text() == name
        except OSError:
            return False

    return [name for name in names if not _soon(partial(readable, name))]


def _soon(true: Callable[[], bool]) -> bool:
    """Whether something is true now, or within the lag of a network file system."""
    deadline = time.monotonic() + LAG
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def told(node: Node, seen: Seen, mine: Packages, accelerators: bool) -> list[str]:
    """What is wrong on a node, in sentences."""
    problems = []
    differing = [
        f"{package} {seen['versions'].get(package)} instead of {version}"
        for package, version in mine["versions"].items()
        if seen["versions"].get(package) != version
    ]
    if seen["python"] != mine["python"]:
        differing.insert(0, f"Python {seen['python']} instead of {mine['python']}")
    if differing:
        problems.append(
            f"cluster: {node.name} has {', '.join(differing)}; install what this process has (requirements.lock)."
        )
    fields: tuple[Field, ...] = get_args(Field)
    problems += [f"{field}: {node.name} {seen[field]}." for field in fields if seen[field]]
    if accelerators and seen["accelerators"] < node.accelerators:
        mend = _driver("" if seen["accelerators"] else seen["cuda"])
        problems.append(
            f"resources: {node.name} was started with {node.accelerators:g} accelerators, but torch sees "
            f"{seen['accelerators']} there; {mend}, or start Ray there with --num-gpus={seen['accelerators']}."
        )
    return problems


def _driver(cuda: str) -> str:
    """What to mend where torch doesn't see any accelerator, by the version of CUDA that it was built for."""
    oldest = DRIVERS.get(cuda.partition(".")[0])
    if oldest is None:
        return "mend its driver or torch's build"
    return f"mend its driver (torch there is built for CUDA {cuda}, which needs NVIDIA's driver {oldest} or newer)"


def _sharing(ray: Any, there: list[Node], marks: Path, patience: float | None) -> list[str]:
    """Whether all nodes, and this process, read what each has written."""
    names = {node.id: node.name for node in there}
    missing, problems = _on_each(ray, there, unseen, lambda node: (str(marks), list(names)), patience)
    missing = {**{names[node]: them for node, them in missing.items()}, "this process": unseen(str(marks), list(names))}
    for reader, them in missing.items():
        if them:
            writers = ", ".join(names[node] for node in them)
            problems.append(
                f"storage: {reader} doesn't see what {writers} wrote to {marks.parent}; mount the same storage on all."
            )
    return problems


def _on_each(
    ray: Any,
    there: list[Node],
    task: Callable[..., T],
    arguments: Callable[[Node], tuple[Any, ...]],
    patience: float | None,
) -> tuple[dict[str, T], list[str]]:
    """Runs a task on every node at the same time. Returns the answers by node, and why others gave none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(task)
    asked = {
        remote.options(
            num_cpus=0,  # a node may be busy with others' work
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        ).remote(*arguments(node)): node
        for node in there
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=patience) if asked else ([], [])
    answers, problems = {}, []
    for reference in answered:
        node = asked[reference]
        try:
            answers[node.id] = ray.get(reference)
        except ray.exceptions.RayError as error:
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            problems.append(
                f"cluster: {node.name} can't run medtune ({type(cause).__name__}: {first_line(cause)}); install what "
                "this process has (requirements.lock), or take the node out."
            )
    for reference in silent:
        ray.cancel(reference, force=True)
        problems.append(
            f"cluster: {asked[reference].name} didn't answer within {patience:.0f} s; restart Ray there, or take the "
            "node out."
        )
    return answers, sorted(problems)
