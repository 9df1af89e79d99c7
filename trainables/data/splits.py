"""Divides a manifest into training, validation and test: by group, stratified by label, from a seed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from spaces.config import SplitConfig
from spaces.mistakes import Mistake
from spaces.strict import digest
from trainables.data.manifest import Manifest

PARTS = ("train", "validation", "test")
EXAMPLES = 10


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the manifest, [.] int64, sorted; every row is in exactly one part."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    digest: str
    """SHA-256 of the manifest's digest and the rows of each part."""
    test_digest: str
    """SHA-256 of the test's groups and contents only: the same test set, however the rest is divided."""


def split(manifest: Manifest, config: SplitConfig) -> Split:
    """Divides the rows. The same on every machine.

    The dataset's official parts are taken where there are any and `config.official`; a part that they lack is carved
    from training. Groups that share an image's content count as one. A part is one fold of scikit-learn's
    StratifiedGroupKFold, the first of those that hold most classes; test first, then validation from the rest.

    Raises:
        Mistake: a group or content in two official parts, a class with too few groups or without training rows, or too
            few images, always with counts.
    """
    groups = _joined_groups(manifest)
    strata = _strata(manifest)
    parts: dict[str, np.ndarray] = {}
    pool = np.arange(len(manifest))
    if config.official and (manifest.official != "").any():
        _refuse_unassigned(manifest)
        _refuse_leaks(manifest)
        parts = {part: np.flatnonzero(manifest.official == part) for part in ("validation", "test")}
        parts = {part: rows for part, rows in parts.items() if len(rows)}
        pool = np.flatnonzero(manifest.official == "train")
    carved = [part for part in ("test", "validation") if part not in parts]
    if carved:
        _refuse_few_groups(manifest, groups, pool, ["train", *reversed(carved)])
    for part in carved:
        fraction = config.test if part == "test" else config.validation
        parts[part] = _carve(part, fraction, config.seed, groups, strata, pool)
        pool = np.setdiff1d(pool, parts[part])
    parts["train"] = pool
    _refuse_untrained_classes(manifest, parts)
    rows = {part: parts[part].astype(np.int64) for part in PARTS}
    test = manifest.take(rows["test"])
    return Split(
        **rows,
        digest=digest({"manifest": manifest.digest(), **{part: rows[part].tolist() for part in PARTS}}),
        test_digest=digest(sorted(set(zip(test.groups.tolist(), test.contents.tolist(), strict=True)))),
    )


def _joined_groups(manifest: Manifest) -> np.ndarray:
    """[N] int64: one number for groups that are linked by images of the same content."""
    names, group = np.unique(manifest.groups, return_inverse=True)
    contents, content = np.unique(manifest.contents, return_inverse=True)
    nodes = len(names) + len(contents)
    edges = coo_array((np.ones(len(manifest), dtype=np.int8), (group, len(names) + content)), shape=(nodes, nodes))
    _, component = connected_components(edges, directed=False)
    return component[group].astype(np.int64)


def _strata(manifest: Manifest) -> np.ndarray:
    """[N] int64 to stratify by: the label; multilabel: the rarest finding that an image has, 0 for none."""
    if manifest.task != "multilabel":
        return manifest.labels
    positive = manifest.labels == 1
    by_rarity = np.argsort(positive.sum(axis=0), kind="stable")
    ranked = positive[:, by_rarity]
    return np.where(ranked.any(axis=1), by_rarity[ranked.argmax(axis=1)] + 1, 0).astype(np.int64)


def _members(manifest: Manifest) -> np.ndarray:
    """[N, L] bool: which classes each row counts for."""
    if manifest.task == "multilabel":
        return manifest.labels == 1
    return manifest.labels[:, None] == np.arange(len(manifest.classes))


def _carve(
    part: str, fraction: float, seed: int, groups: np.ndarray, strata: np.ndarray, pool: np.ndarray
) -> np.ndarray:
    folds = max(2, round(1 / fraction))
    largest = int(np.bincount(strata[pool]).max())
    distinct = len(np.unique(groups[pool]))
    if folds > min(largest, distinct):
        raise Mistake(
            f"dataset.split.{part}: {fraction:g} means one of {folds} parts, but {len(pool)} images remain, in "
            f"{distinct} groups, {largest} images of the largest class; raise {part}, or add images."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes: what matters of that is refused with counts
        candidates = [fold for _, fold in splitter.split(pool, strata[pool], groups[pool])]
    best = max(candidates, key=lambda fold: len(np.unique(strata[pool[fold]])))
    return np.sort(pool[best])


def _refuse_unassigned(manifest: Manifest) -> None:
    missing = int((manifest.official == "").sum())
    if missing:
        raise Mistake(
            f"dataset: {missing} of {len(manifest)} images are in no part of the official split; assign them, or write "
            "split: {official: false}."
        )


def _refuse_leaks(manifest: Manifest) -> None:
    sentences: list[str] = []
    for what, keys in (("groups", manifest.groups), ("identical images", manifest.contents)):
        names, index = np.unique(keys, return_inverse=True)
        inside = np.stack([np.isin(np.arange(len(names)), index[manifest.official == part]) for part in PARTS], axis=1)
        leaking = np.flatnonzero(inside.sum(axis=1) > 1)
        if what == "identical images" and np.array_equal(manifest.groups, manifest.contents) and sentences:
            continue  # where contents are the groups, once is enough
        if not len(leaking):
            continue
        rows = np.isin(index, leaking)
        counts = ", ".join(f"{int((rows & (manifest.official == part)).sum())} in {part}" for part in PARTS)
        sentences.append(
            f"dataset: {len(leaking)} {what} stand in more than one part of the official split ({counts} images)."
        )
        for leak in leaking[:EXAMPLES]:
            shown = []
            for part in PARTS:
                of_part = np.flatnonzero((index == leak) & (manifest.official == part))
                shown += [f"{manifest.paths[of_part[0]]} ({part})"] if len(of_part) else []
            sentences.append(f"dataset: belong together: {', '.join(shown)}.")
    if sentences:
        raise Mistake(
            *sentences,
            "dataset: write split: {official: false} for a split that keeps them together, or correct the data.",
        )


def _refuse_few_groups(manifest: Manifest, groups: np.ndarray, pool: np.ndarray, needed: list[str]) -> None:
    members = _members(manifest)[pool]
    sentences = []
    for i, name in enumerate(manifest.classes):
        distinct = len(np.unique(groups[pool][members[:, i]]))
        if distinct < len(needed):
            sentences.append(
                f'dataset: class "{name}" has {int(members[:, i].sum())} images in {distinct} groups to divide, '
                f"expected at least {len(needed)} groups, one for each of {', '.join(needed)}; add images, or leave "
                "the class out."
            )
    if sentences:
        raise Mistake(*sentences)


def _refuse_untrained_classes(manifest: Manifest, parts: dict[str, np.ndarray]) -> None:
    members = _members(manifest)
    counts = {part: members[parts[part]].sum(axis=0) for part in PARTS}
    sentences = [
        f'dataset: class "{name}" has no training images ({counts["validation"][i]} in validation, {counts["test"][i]} '
        "in test); add some, join it with another class, or take another split.seed."
        for i, name in enumerate(manifest.classes)
        if counts["train"][i] == 0
    ]
    if sentences:
        raise Mistake(*sentences)
