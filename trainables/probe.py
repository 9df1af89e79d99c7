"""What a kind of configuration costs on a device, measured by training it for some steps on images of noise.

Time and memory depend on a configuration's network, depth, batch and resolution, not on its weights or its images.
"""

from __future__ import annotations

import ctypes
import gc
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch

from spaces.config import TrialConfig
from spaces.strict import digest
from trainables.augment import store_resolution
from trainables.causes import Diverged
from trainables.data.manifest import Task
from trainables.data.parts import Part, TrialData
from trainables.data.units import Units
from trainables.files import write_json, write_text
from trainables.inference import predict
from trainables.kinds import kind
from trainables.loop import fine_tune
from trainables.memory_errors import out_of_memory
from trainables.place import Place
from trainables.resident import RESIDENT

STEPS = 2  # timed; as many before them, in which memory is found and kernels are chosen
SMALL, QUICK = 2, 2.0  # images and seconds: on a CPU the batch is as large as can be tried in that time
NEUTRAL = {"logit_adjustment": 0.0, "class_weights": "none"}
"""What has no bearing on the cost, and no meaning on noise, in which some classes have no image."""
SAMPLED = 0.002  # seconds between two looks at a process's memory
DIVERGED = "diverged"
Past = Literal["measured", "untried", "failed", "diverged"]


@dataclass(frozen=True)
class Cost:
    """Of one kind of configuration on one device."""

    training: float
    """Seconds an image, with everything computed."""
    evaluating: float
    """Seconds an image."""
    device_bytes: int
    """Of the accelerator's memory, at the most; 0 on a CPU."""
    host_bytes: int
    """By how much the process's own memory grew, at the most."""
    whole: bool = True
    """False where a smaller batch was tried, since a whole one takes long on a CPU: it needs more memory than that."""
    fits: bool = True
    """False where it ran out of memory; the figures are then 0."""


def probe(config: TrialConfig, classes: int, task: Task, place: Place) -> Cost:
    """Trains for a few steps, and evaluates a batch.

    Args:
        config: of the kind that is to be measured.
        classes: number of classes or findings.
        place: where; its accelerator should have nothing else to do.

    Raises:
        Diverged: the loss wasn't finite, so that nothing was measured.
    """
    if place.device.type != "cpu":
        return _measured(config, config.batch_size, classes, task, place)
    small = min(SMALL, config.batch_size)
    first = _measured(config, small, classes, task, place)
    an_image = 2 * STEPS * first.training + 2 * first.evaluating
    batch = min(config.batch_size, int(QUICK / an_image)) if first.fits and an_image > 0 else small
    found = _measured(config, batch, classes, task, place) if batch > small else first
    return found if max(batch, small) == config.batch_size else replace(found, whole=False)


def _measured(config: TrialConfig, batch: int, classes: int, task: Task, place: Place) -> Cost:
    images = batch * STEPS
    data = TrialData(
        train=noise(images, store_resolution(config), classes, task),
        validation=noise(batch, config.resolution, classes, task),
        classes=tuple(map(str, range(classes))),
        task=task,
    )
    plain = config.plain() | {"weights": "random", "epochs": 2, "value": "last", "ema": 0.0, "warmup": 0.0}
    plain |= {"classes_averaged": None, "views": 0, "head_lr": 1e-6, "batch_size": batch}
    plain |= NEUTRAL
    short = TrialConfig.model_validate(plain)
    RESIDENT.begin()
    try:
        return _trained(short, data, place)
    except Exception as error:
        if out_of_memory(error) is None:
            raise
    finally:
        freed(place)
    return Cost(0.0, 0.0, 0, 0, fits=False)


def _trained(config: TrialConfig, data: TrialData, place: Place) -> Cost:
    with _peak(place) as peak:
        outcome = fine_tune(config, data, place=place, judged=False)
        started = time.perf_counter()
        predict(outcome.model, config, data.validation, place)
        evaluating = (time.perf_counter() - started) / len(data.validation)
    epoch = outcome.reports[-1].seconds - evaluating * len(data.validation)
    return Cost(max(epoch, 0.0) / len(data.train), evaluating, peak.device, peak.host)


def past(config: TrialConfig, classes: int, task: Task, place: Place, cache: Path) -> Past:
    """What `remembered` knows of a kind: `measured`, so that asking for it takes no time; `failed` or `diverged`, where
    it ran out of memory or ended the process, or had no finite loss, and is tried again."""
    file = _file(config, classes, task, place, cache)
    if _kept(file) is not None:
        return "measured"
    said = _said(_mark(file))
    if said is None:
        return "untried"
    return "diverged" if said == DIVERGED else "failed"


def remembered(config: TrialConfig, classes: int, task: Task, place: Place, cache: Path) -> Cost:
    """As `probe`, kept under `cache/costs` for this device and version of torch. That it ran out of memory isn't kept,
    only that it was tried: another process may have had most of it at that moment. Where somebody stops the process, it
    is known of the kind what was known before.

    Raises:
        Diverged: as `probe`; nothing else is kept then.
    """
    file = _file(config, classes, task, place, cache)
    kept = _kept(file)
    if kept is not None:
        return kept
    mark = _mark(file)
    before = _said(mark)
    write_text(mark, "")  # before: where memory is short, the system may end this process
    try:
        found = probe(config, classes, task, place)
    except Diverged:
        write_text(mark, DIVERGED)
        raise
    except BaseException as error:
        if not isinstance(error, Exception):  # somebody stopped it, as by Ctrl-C
            mark.unlink(missing_ok=True)
            if before is not None:
                write_text(mark, before)
        raise
    if found.fits:
        write_json(file, asdict(found))
        mark.unlink(missing_ok=True)
    return found


def _file(config: TrialConfig, classes: int, task: Task, place: Place, cache: Path) -> Path:
    device = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else _processor()
    name = digest([kind(config), classes, task, device, torch.get_num_threads(), torch.__version__])
    return cache / "costs" / f"{name}.json"


def _mark(file: Path) -> Path:
    """Stands beside where a cost would be kept, from before it is measured until it is; says whether it diverged."""
    return file.with_suffix(".tried")


def _said(mark: Path) -> str | None:
    """None where there is no mark."""
    try:
        return mark.read_text(encoding="utf-8")
    except OSError:
        return None


def _kept(file: Path) -> Cost | None:
    try:
        return Cost(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there, or another version's
        return None


def _processor() -> str:
    return f"{torch.backends.cpu.get_cpu_capability()} {psutil.cpu_count()}"


def noise(rows: int, size: tuple[int, int], classes: int, task: Task) -> Part:
    """Images of noise with every class in turn, always the same ones; `size`: height and width."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (rows, 3, *size), dtype=torch.uint8, generator=generator)
    number = torch.arange(rows) % classes
    labels = torch.nn.functional.one_hot(number, classes).float() if task == "multilabel" else number
    units = Units(np.arange(rows), labels.numpy(), np.arange(rows).astype(str), "mean", {})
    return Part(pixels, labels, units, f"noise {rows} {size}")


class _Peak:
    device, host = 0, 0


@contextmanager
def _peak(place: Place) -> Iterator[_Peak]:
    """The most memory that was in use within the block: an accelerator's, and the process's beyond what it had before.

    The process's is looked at every so often: a peak that was shorter is missed.
    """
    found, ended, process = _Peak(), threading.Event(), psutil.Process()
    before = own_memory(process)
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place.device)

    def watch() -> None:
        while not ended.wait(SAMPLED):
            found.host = max(found.host, own_memory(process) - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
    if place.device.type == "cuda":
        found.device = torch.cuda.max_memory_allocated(place.device)


def own_memory(process: psutil.Process) -> int:
    """Bytes of a process that no file stands behind: mapped files are the system's to drop."""
    taken = process.memory_info()
    return int(taken.rss - getattr(taken, "shared", 0))  # which only Linux tells


def freed(place: Place) -> None:
    """Gives back to the system what nothing holds any more: it would count in no later measurement, or in all."""
    RESIDENT.make_way()
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
