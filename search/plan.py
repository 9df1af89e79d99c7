"""Everything that can be known of a search before the first accelerator second."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from search.cluster import sharing
from search.images_found import beside
from search.outputs import unwritable
from search.study import database_has
from search.suitable import check_direction, check_metric, check_sources, check_strategy, check_task
from search.tracking import reachable, refuse_database
from spaces.backbone import backbone
from spaces.config import METRICS, DatasetConfig, Direction, ResourcesConfig, SearchConfig, parse_resolution
from spaces.dimensions import Point, Space
from spaces.library import assemble, first_points
from spaces.mistakes import Mistake, nearest
from spaces.policy import Policy, policy, refuse_beyond
from spaces.protocol import apply, with_warmup
from trainables.data.audit import (
    Alike,
    Copies,
    Looked,
    look_at_files,
    look_at_images,
    refuse_bad,
    refuse_damaged,
)
from trainables.data.manifest import Manifest
from trainables.data.order import global_batches
from trainables.data.pixels import PixelSpec, Progress, open_many, pixel_spec
from trainables.data.prepared import Prepared, divide
from trainables.data.problems import Incomplete
from trainables.data.readers import read
from trainables.data.splits import lacking
from trainables.object_store import ObjectFolder

T = TypeVar("T")
ANSWER = 30.0  # seconds that an object store is given


@dataclass(frozen=True)
class Plan:
    """A search that can be started."""

    config: SearchConfig
    """With the metric, the policy and all folders resolved."""
    space: Space
    prepared: Prepared
    first: list[Point]
    """Tried before the sampler is asked."""
    concurrent: int
    """Trials at once on this machine."""
    alike: tuple[Alike, ...] = ()
    """Images that look alike, of the test too, where all of them were looked at."""
    copies: Copies | None = None
    """Byte-identical images, of the test too; None where nobody asked."""
    carved: tuple[str, ...] = ()
    """Parts that the dataset's own split lacks, and that were carved from its training images."""

    @property
    def direction(self) -> Direction:
        return METRICS[self.config.metric]  # type: ignore[index,return-value]

    @property
    def folder(self) -> Path:
        return Path(self.config.storage) / self.config.name

    @property
    def cache(self) -> Path:
        return self.config.cache_folder


def resolve(config: SearchConfig, base: Path) -> SearchConfig:
    """Folders made absolute: the dataset's and weights' relative to the settings file (in `base`), the storage's to the
    working folder."""
    weights = config.weights
    if isinstance(weights, dict):
        weights = {k: w if w in ("pretrained", "random") else str((base / w).resolve()) for k, w in weights.items()}
    elif weights not in ("pretrained", "random"):
        weights = str((base / weights).resolve())
    return config.model_copy(
        update={
            "dataset": config.dataset.model_copy(update={"root": str((base / config.dataset.root).resolve())}),
            "storage": str(Path(config.storage).resolve()),
            "cache": str(Path(config.cache).resolve()) if config.cache else None,
            "weights": weights,
        }
    )


def plan(
    config: SearchConfig,
    base: Path,
    *,
    cluster: bool = False,
    going_on: bool = False,
    thorough: bool = False,
    decoded: bool = True,
    progress: Progress | None = None,
) -> Plan:
    """Checks everything, and prepares the data.

    Args:
        base: folder that the dataset's root is relative to.
        cluster: resources are a cluster's, and are checked once it is connected to.
        going_on: the search was started before; MLflow may then be away, and is brought up to date later.
        thorough: look at every image, of the test too, and keep no pixels; where the tables are too wrong to say which
            ones are needed, at every image file under the dataset's folder. Otherwise images are decoded for trials.
        decoded: whether images are decoded for trials, where nothing else is asked for; tables are read all the same.
        progress: called with (images done, images), unless all were decoded before.

    Raises:
        Mistake: everything that is wrong, together.
    """
    config = resolve(config, base)
    problems: list[str] = []
    full: list[str] = []
    labelled: dict[str, str] = {}  # images that can be used though the tables can't

    def attempt(check: Callable[[], T]) -> T | None:
        try:
            return check()
        except Mistake as mistake:
            problems.extend(mistake.sentences)
            full.extend(mistake.full)
            if isinstance(mistake, Incomplete):
                labelled.update(mistake.labelled)
            return None

    by_protocol = attempt(lambda: apply(config))
    config = by_protocol or config
    attempt(lambda: check_strategy(config))
    space = attempt(lambda: assemble(config))
    attempt(lambda: check_weights(config))
    attempt(lambda: check_storage(Path(config.storage)))
    attempt(lambda: check_checkpoints(config.checkpoints))
    named = config.dataset.policy
    attempt(lambda: policy(named, config.dataset.augmentation) if named else None)
    concurrent = (
        0 if cluster else attempt(lambda: concurrent_trials(config.resources, *this_machine_has(config.resources)))
    )
    if config.study and not going_on:
        record, name = config.study, config.name
        attempt(lambda: database_has(record, name))
    if config.mlflow not in ("off", "local"):
        attempt(lambda: refuse_database(config.mlflow) if going_on else reachable(config.mlflow))
    storage_usable = not any(sentence.startswith("storage:") for sentence in problems)
    cache = config.cache_folder
    whole = attempt(lambda: read(config.dataset, cache, base)) if storage_usable else None
    listed = None
    if whole is not None and by_protocol is not None:  # without the protocol's, the split would be another one
        listed = attempt(lambda: divide(whole, config.dataset.split))
    prepared = listed[0] if listed else None
    first: list[Point] | None = []
    if prepared is not None:
        config = with_readers_defaults(config, prepared.manifest)
        attempt(lambda: check_direction(config))
        attempt(lambda: check_side(config.dataset))
        attempt(lambda: check_sources(prepared))
        if space is not None and by_protocol is not None:
            steps = steps_an_epoch(space, prepared)
            config = attempt(lambda: with_warmup(config, steps)) or config
            space = attempt(lambda: assemble(config)) or space
        if space is not None:
            first = attempt(lambda: first_points(config, space, len(prepared.train)))
            attempt(lambda: check_task(space, prepared.manifest))
            attempt(lambda: check_metric(str(config.metric), prepared, config.classes_averaged))
            # Where policies are wrong, images are looked at all the same.
            policies = attempt(lambda: policies_of(config, space, prepared.manifest.policy)) or [Policy()]
            if decoded and not thorough:
                attempt(lambda: decode(config, space, prepared, policies, progress))
                if listed and not going_on:  # a final would stumble over them when it has opened the test
                    attempt(lambda: refuse_damaged(in_test(*listed[1:]), cache, progress))
    looked: Looked | None = None
    if thorough and whole is not None:  # where no split can be made, all rows, in the dataset's own parts
        of = listed[1:] if listed else (whole, whole.official)
        looked = attempt(lambda: _to_the_end(lambda: look_at_images(*of, cache, progress), problems))
    elif thorough and storage_usable and not _wrong_settings(problems):
        root = Path(config.dataset.root)
        looked = attempt(lambda: _to_the_end(lambda: look_at_files(root, labelled, cache, progress), problems))
    if looked:
        attempt(lambda: refuse_bad(looked.bad, looked.images))
    if looked and problems:
        attempt(beside(looked, whole.left_out if whole is not None else ()).raise_if_any)
    if problems or space is None or prepared is None or first is None or concurrent is None:
        raise Mistake(*dict.fromkeys(problems), full=dict.fromkeys(full))
    carved = lacking(listed[1], config.dataset.split) if listed else ()
    alike, found = (looked.alike, looked.copies) if looked else ((), None)
    return Plan(config, space, prepared, first, concurrent, alike, found, carved)


def in_test(manifest: Manifest, parts: np.ndarray) -> Manifest:
    """The test rows of a manifest. `parts`: [N] str, the part that each row is in."""
    return manifest.take(np.flatnonzero(parts == "test"))


def with_readers_defaults(config: SearchConfig, manifest: Manifest) -> SearchConfig:
    """The settings with the metric, policy and crop that the reader chose where the person didn't."""
    dataset = config.dataset.model_copy(
        update={"policy": config.dataset.policy or manifest.policy, "crop": config.dataset.crop or manifest.crop}
    )
    return config.model_copy(update={"metric": config.metric or manifest.metric, "dataset": dataset})


def steps_an_epoch(space: Space, prepared: Prepared) -> int:
    """Of a trial with the smallest batch that the space has."""
    batch = min(size for size in space.offered("batch_size") or (64,) if isinstance(size, int))
    return len(global_batches(prepared.train, batch))


def decode(
    config: SearchConfig, space: Space, prepared: Prepared, policies: list[Policy], progress: Progress | None
) -> None:
    """Decodes every training and validation image for every resolution of the space, which trials would do otherwise.

    Args:
        policies: of augmentation, whose crops decide how large training images are kept.

    Raises:
        Mistake: images that can't be used, all of them together.
    """
    parts = pixels_of_trials(config, space, prepared, policies)
    total, before = sum(len(rows) for rows, _ in parts), 0
    problems: list[str] = []
    full: list[str] = []
    for rows, specs in parts:

        def count(done: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + done, total)

        try:
            open_many(prepared.manifest.take(rows), specs, config.cache_folder, progress=count)
        except Mistake as mistake:
            problems += mistake.sentences
            full += mistake.full
        before += len(rows)
    if problems:
        raise Mistake(*problems, full=full)


def pixels_of_trials(
    config: SearchConfig, space: Space, prepared: Prepared, policies: list[Policy]
) -> list[tuple[np.ndarray, list[PixelSpec]]]:
    """The rows [N] whose pixels the trials of a space map, and each way in which they are kept."""
    resolutions = {parse_resolution(value) for value in space.offered("resolution") if isinstance(value, int | str)}
    levels = {int(level) for level in space.offered("level") or (0,)}
    stores = {p.stored_at(r, level) for r in resolutions for p in policies for level in levels}
    parts = [(prepared.train, stores), (prepared.validation, resolutions)]
    if len(prepared.folds) > 1:  # every row is learned from in some fold and validated in another
        parts = [(np.arange(len(prepared.manifest)), stores | resolutions)]
    return [(rows, [pixel_spec(config.dataset, size) for size in sorted(sizes)]) for rows, sizes in parts]


def check_side(dataset: DatasetConfig) -> None:
    """That mirroring has something to look at.

    Raises:
        Mistake: it would be done to nothing.
    """
    if dataset.side != "keep" and dataset.crop != "breast":
        raise Mistake(
            f"dataset.side: {dataset.side} mirrors breasts that crop: breast has found, but crop is {dataset.crop}; "
            "write crop: breast, or leave side out."
        )


def policies_of(config: SearchConfig, space: Space, modality: str) -> list[Policy]:
    """The augmentation policies that trials may have, with the search's own ranges.

    Raises:
        Mistake: an unknown policy, or ranges that make no sense for one.
    """
    names = space.offered("policy") or (str(config.dataset.policy),)
    found = [policy(str(name), config.dataset.augmentation) for name in names]
    if config.protocol != "paper":  # which does the same to every modality, and says so
        for one in found:
            refuse_beyond(one, modality, config.dataset.augmentation)
    return found


def _to_the_end(look: Callable[[], Looked], problems: list[str]) -> Looked:
    """Looks, unless the person has seen enough; what is known to be wrong by then (`problems`) is told all the same.

    Raises:
        Mistake: not all images were looked at.
    """
    try:
        return look()
    except KeyboardInterrupt:
        if not problems:
            raise
        raise Mistake(
            "dataset: interrupted before all images were looked at; further ones may be damaged, so start it again."
        ) from None


def _wrong_settings(problems: list[str]) -> bool:
    """Whether it is the settings that are wrong, so that nothing is known of where the images lie."""
    return any(sentence.startswith(("dataset.root", "dataset.reader", "dataset.options")) for sentence in problems)


def check_weights(config: SearchConfig) -> None:
    """That every backbone's weights exist, as far as can be seen without loading them."""
    problems = []
    by_name = config.weights if isinstance(config.weights, dict) else dict.fromkeys(config.backbones, config.weights)
    for name in by_name.keys() - set(config.backbones):
        problems.append(f'weights: "{name}" is not among this search\'s backbones.{nearest(name, config.backbones)}')
    for name in config.backbones:
        try:
            spec = backbone(name)
        except Mistake:
            continue  # told by the space
        weights = by_name.get(name, "pretrained")
        if weights == "pretrained" and not spec.pretrained:
            problems.append(
                f'weights: there are no trained weights of {name}; write "weights: random" if random ones are meant.'
            )
        elif weights not in ("pretrained", "random") and not Path(weights).is_file():
            problems.append(
                f"weights: {name}: no file {weights}; write pretrained, random, or the path of an official file."
            )
    if problems:
        raise Mistake(*problems)


def check_storage(storage: Path) -> None:
    """That files can be made in the storage folder; what wasn't there before isn't there after."""
    if reason := unwritable(storage):
        raise Mistake(f"storage: {storage} can't be written to ({reason}); name another folder.")


def check_checkpoints(address: str | None) -> None:
    """That an object store for checkpoints can be written to and read from.

    Raises:
        Mistake: it can't, within `ANSWER` seconds.
    """
    if address is None:
        return
    found = [f"no answer within {ANSWER:g} s"]
    asking = threading.Thread(target=lambda: found.append(ObjectFolder(address).refused()), daemon=True)
    asking.start()
    asking.join(ANSWER)
    if found[-1]:
        raise Mistake(
            f"checkpoints: nothing can be kept at {address} ({found[-1]}); correct the address, or this machine's "
            "rights there (environment, role), or leave it out: they then lie in the storage."
        )


def this_machine_has(wanted: ResourcesConfig) -> tuple[int, int]:
    """CPUs and accelerators of this machine; accelerators are only looked for where some are wanted."""
    accelerators = 0
    if wanted.accelerators:
        import torch

        accelerators = torch.cuda.device_count()
    return len(os.sched_getaffinity(0)), accelerators


def concurrent_trials(wanted: ResourcesConfig, cpus: int, accelerators: float) -> int:
    """How many trials run at once on that many CPUs and accelerators.

    Raises:
        Mistake: not even one fits, or not as many as are asked for.
    """
    workers = wanted.workers
    fit = int(cpus // wanted.cpus) // workers
    if wanted.accelerators:
        fit = min(fit, int(accelerators) * sharing(wanted.accelerators) // workers)
    if not fit:
        shared = f" ({workers} workers)" if workers > 1 else ""
        raise Mistake(
            f"resources: a trial asks for {wanted.cpus * workers} CPUs and {wanted.accelerators * workers:g} "
            f"accelerators{shared}, but there are {cpus:g} and {accelerators:g}; ask for less, or use --address of a "
            "cluster that has them."
        )
    if wanted.concurrent != "auto" and wanted.concurrent > fit:
        raise Mistake(
            f"resources: {wanted.concurrent} concurrent trials are asked for, but {fit} fit; lower it, or write auto."
        )
    return fit if wanted.concurrent == "auto" else wanted.concurrent
