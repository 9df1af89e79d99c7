"""A smoke test of a search's exact settings: one trial of two steps through every part, in a folder that goes again.

Pixels are decoded, weights loaded, two batches trained, a checkpoint and predictions written, the validation images
evaluated, all of it recorded and mirrored to MLflow. Only the number of images, epochs and trials is another.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from search.cluster import check_labels
from search.console import Console
from search.dry_run import dry_run, line
from search.folder import SearchFolder
from search.launch import start
from search.mirror import Mirror
from search.plan import Plan, decode, plan, policies_of
from search.record import State
from search.tracking import local_uri, search_facts
from spaces.config import SearchConfig, TrialConfig
from spaces.mistakes import Mistake
from trainables.data.manifest import Manifest
from trainables.data.prepared import Prepared
from trainables.data.units import units_of
from trainables.trial_files import PREDICTIONS, trial_folder

STEPS = 2
OF_EACH = 2  # groups of each class that are validated on: as few as have a metric


def smoke(config: SearchConfig, base: Path, *, address: str | None, console: Console) -> None:
    """Runs the smoke test and says what was touched. The storage is left as it was.

    Raises:
        Mistake: what is wrong with the settings, or what went wrong in the trial.
        Interrupted: by Ctrl-C.
    """
    started = time.monotonic()
    check_labels(config.resources, address)
    with console.working("looking at the data"):
        whole = plan(config, base, cluster=address is not None, decoded=False)
    storage = Path(whole.config.storage)
    made = [p for p in (storage, *storage.parents) if not p.exists()]
    storage.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=storage, prefix=f".smoke-{config.name}-"))  # where all nodes of a cluster look
    try:
        small = _small(whole, folder)
        with console.working("decoding images") as progress:
            policies = policies_of(small.config, small.space, small.prepared.manifest.policy)
            decode(small.config, small.space, small.prepared, policies, progress)
        with console.working("training, of which nothing is kept"):
            found = start(small, address=address, console=Console.silent())
            lines = _touched(found, small, whole)
        console.print(*lines, f"The smoke test passed in {time.monotonic() - started:.0f} s; nothing of it is kept.")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # something else came into it meanwhile; what went wrong before is to be told
            for empty in made:
                empty.rmdir()


def _small(whole: Plan, folder: Path) -> Plan:
    """The plan of one trial of one epoch, on as many images as two steps and a metric take."""
    config, prepared = whole.config, whole.prepared
    [trial] = dry_run(whole, 1)
    batch = int(trial.point.get("batch_size", TrialConfig.model_fields["batch_size"].default))
    keep = [_few(prepared.manifest, prepared.train, STEPS * batch)]
    keep += [_few(prepared.manifest, validation) for _, validation in prepared.folds]
    budget = config.budget.model_copy(update={"trials": 1, "epochs": 1, "hours": None, "device_hours": None})
    changed = {
        "storage": str(folder),
        "cache": None,
        "checkpoints": None,
        "study": None,
        "mlflow": "off",  # mirrored at the end, into this folder
        "budget": budget,
        "strategy": "free",
    }
    small = config.model_copy(update=changed)
    rows = np.unique(np.concatenate(keep))
    return replace(whole, config=small, prepared=_only(prepared, rows), first=[trial.point])


def _few(manifest: Manifest, rows: np.ndarray, wanted: int = 0) -> np.ndarray:
    """Of some rows, those of a few groups of each class, in whole units; then others up to `wanted`, evenly."""
    units = units_of(manifest.take(rows))
    chosen: set[int] = set()
    for has in _classes(units.truth, len(manifest.classes)):
        _, first = np.unique(units.groups[has], return_index=True)
        chosen |= set(np.flatnonzero(has)[np.sort(first)[:OF_EACH]].tolist())
    taken = np.isin(units.of_row, list(chosen))
    others = np.flatnonzero(~taken)
    missing = min(max(0, wanted - int(taken.sum())), len(others))
    taken[others[np.linspace(0, len(others) - 1, missing).astype(np.int64)]] = True
    return rows[taken]


def _classes(truth: np.ndarray, classes: int) -> Iterator[np.ndarray]:
    """Which units [U] have each class; of findings, also which don't have it."""
    if truth.ndim == 1:
        yield from (truth == index for index in range(classes))
    else:
        yield from (truth[:, index] == value for index in range(classes) for value in (0, 1))


def _only(prepared: Prepared, rows: np.ndarray) -> Prepared:
    """The dataset with nothing but some of its rows."""

    def within(part: np.ndarray) -> np.ndarray:
        return np.searchsorted(rows, np.intersect1d(part, rows)).astype(np.int64)

    return replace(
        prepared,
        manifest=prepared.manifest.take(rows),
        train=within(prepared.train),
        validation=within(prepared.validation),
        folds=tuple((within(train), within(validation)) for train, validation in prepared.folds),
    )


def _touched(found: SearchFolder, small: Plan, whole: Plan) -> list[str]:
    """What was done, a line each.

    Raises:
        Mistake: the trial came to no value.
    """
    study = found.study()
    [trial] = study.trials
    if trial.state is not State.COMPLETE:
        raise Mistake(
            f"smoke test: the trial ended as {trial.state}: {trial.cause or 'no reason is known'}; mend that first."
        )
    folder = trial_folder(found.path, trial.number)
    checkpoints = list(folder.rglob("epoch-*"))
    if not checkpoints or not (folder / PREDICTIONS).is_file():
        raise Mistake(
            "smoke test: the trial left no checkpoint or no predictions; run the search itself with --set "
            "budget.trials=1, whose log stays."
        )
    prepared, epoch = small.prepared, trial.epochs[trial.done]
    lines = [
        f"Configuration: {line(trial).strip()}",
        f"Pixels: {len(prepared.manifest)} images decoded, {len(prepared.train)} to train on.",
        f"Trained in {trial.seconds:.1f} s with evaluation; training loss {epoch.train_loss:.4f}, checkpoint written.",
        f"Evaluated on {len(prepared.validation)} images: {small.config.metric} {trial.value:.4f}, of no meaning.",
        f"Record: {len(study.trials)} trial, {trial.done} epoch.",
    ]
    if whole.config.mlflow != "off":
        Mirror(local_uri(found.path.parent), search_facts(found.path)).update(study.trials, driven=False)
        lines.append("MLflow: the search and its trial were mirrored, to a store of their own.")
    return lines
