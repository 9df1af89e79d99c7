"""Divides a manifest into training, validation and test, or into folds: by group, stratified by label, from a seed.

Where a paper's split is repeated (`SplitConfig.by`), by image or in the order of paths, as leaky as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spaces.config import SplitConfig
from spaces.mistakes import Mistake
from spaces.strict import digest
from trainables.data.manifest import Manifest
from trainables.data.order import sample_order
from trainables.data.problems import Problems
from trainables.data.stratification import groups_of_classes, stratified_folds

PARTS = ("train", "validation", "test")
CARVED = ("test", "validation")  # in this order, each from what is left
_STAGES = {"test": 0, "validation": 1, "folds": 2, "images": 3}  # each draws an order of its own from the seed

Fold = tuple[np.ndarray, np.ndarray]
"""Training and validation rows, [.] int64 each, sorted."""


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the manifest, [.] int64, sorted; every row is in exactly one part, of `SplitConfig.rows: train`
    every training row of the official split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    folds: tuple[Fold, ...]
    """With `SplitConfig.folds` above 1, training and validation rows together, divided anew; `train` and `validation`
    are as they are without folds. Else the one pair of them."""
    digest: str
    """SHA-256 of the manifest's digest and the rows of each part and fold."""
    test_digest: str
    """SHA-256 of the test's groups only: the same test set, however the rest is divided and its images are read."""
    test_contents: str
    """SHA-256 of the test's images only: the same, whatever groups are named by."""


def split(manifest: Manifest, config: SplitConfig) -> Split:
    """Divides the rows. The same on every machine.

    The dataset's official parts are taken where there are any and `config.official`; a part that they lack is carved
    from training. Groups that share an image's content count as one. A part is one of the folds that
    `trainables.data.stratification` deals, the first of those that hold most classes; test first, then validation from
    the rest.

    Raises:
        Mistake: a group or content in two official parts, a class with too few groups or without training rows, in a
            fold too, or too few images, always with counts.
    """
    members = _members(manifest)
    pool = _divided(manifest, config)
    if config.by != "group":
        return _as_in_a_paper(manifest, members, pool, config)
    groups = _joined_groups(manifest)
    parts: dict[str, np.ndarray] = {}
    if _officially(manifest, config):
        _refuse_unassigned(manifest)
        _refuse_leaks(manifest)
        parts = {part: np.flatnonzero(manifest.official == part) for part in ("validation", "test")}
        parts = {part: rows for part, rows in parts.items() if len(rows)}
        pool = np.flatnonzero(manifest.official == "train")
    carved = [part for part in CARVED if part not in parts]
    if carved:
        needed = ["train", *reversed(carved)]
        each = f"one for each of {', '.join(needed)}"
        _refuse_few_groups(manifest.classes, groups[pool], members[pool], len(needed), each)
    for part in carved:
        fraction = config.test if part == "test" else config.validation
        parts[part] = pool[_carve(part, fraction, config.seed, groups[pool], members[pool])]
        pool = np.setdiff1d(pool, parts[part])
    parts["train"] = pool
    _refuse_untrained_classes(manifest.classes, members, parts)
    folds: tuple[Fold, ...] = ()
    if config.folds > 1:
        either = np.union1d(parts["train"], parts["validation"])
        folds = _folds(manifest.classes, groups, members, either, config)
    return _named(manifest, parts, folds)


def lacking(manifest: Manifest, config: SplitConfig) -> tuple[str, ...]:
    """Parts that the dataset's own split hasn't, so that `split` carves them from its training rows; none where that
    split isn't used."""
    if not _officially(manifest, config):
        return ()
    return tuple(part for part in reversed(CARVED) if not (manifest.official == part).any())


def _officially(manifest: Manifest, config: SplitConfig) -> bool:
    """Whether the dataset has a split of its own, and it is used."""
    used = config.by == "group" and config.official and config.rows == "all"
    return used and bool((manifest.official != "").any())


def _named(manifest: Manifest, parts: dict[str, np.ndarray], folds: tuple[Fold, ...] = ()) -> Split:
    rows = {part: parts[part].astype(np.int64) for part in PARTS}
    folds = folds or ((rows["train"], rows["validation"]),)
    test = manifest.take(rows["test"])
    return Split(
        **rows,
        folds=folds,
        digest=digest(
            {
                "manifest": manifest.digest(),
                **{part: rows[part].tolist() for part in PARTS},
                "folds": [validation.tolist() for _, validation in folds],
            }
        ),
        test_digest=test.groups_digest(),
        test_contents=test.contents_digest(),
    )


def _divided(manifest: Manifest, config: SplitConfig) -> np.ndarray:
    """[.] int64: the rows that are divided."""
    if config.rows == "all":
        return np.arange(len(manifest))
    rows = np.flatnonzero(manifest.official == "train")
    if not len(rows):
        raise Mistake(
            "dataset.split.rows: only the training images of the dataset's own split are to be divided, but this copy "
            "has no such split; take the copy that has one, or write rows: all."
        )
    return rows


def _as_in_a_paper(manifest: Manifest, members: np.ndarray, pool: np.ndarray, config: SplitConfig) -> Split:
    """Shares of all images, not stratified: drawn one by one, or cut in the order of paths where the next group begins.

    Groups and copies of an image aren't looked at, but that cuts never go through a group whose images follow one
    another.
    """
    if config.folds > 1:
        raise Mistake(f"dataset.split.folds: {config.folds} folds can't be divided by {config.by}; write folds: 1.")
    if config.by == "image":
        drawn = pool[sample_order(config.seed % 2**64, _STAGES["images"], len(pool))]
    else:
        drawn = pool[np.argsort(manifest.paths[pool], kind="stable")]
    ends = [round(config.validation * len(pool)), round((config.validation + config.test) * len(pool))]
    if config.by == "order":
        group = manifest.groups[drawn]
        begins = np.append(np.flatnonzero(np.append(True, group[1:] != group[:-1])), len(pool))
        ends = [int(begins[np.searchsorted(begins, end)]) for end in ends]
    validation, test, train = (np.sort(rows) for rows in np.split(drawn, ends))
    parts = {"train": train, "validation": validation, "test": test}
    for part, rows in parts.items():
        if not len(rows):
            raise Mistake(f"dataset: {len(pool)} images are too few to divide, {part} would have none; add images.")
    _refuse_untrained_classes(manifest.classes, members, parts)
    return _named(manifest, parts)


def _joined_groups(manifest: Manifest) -> np.ndarray:
    """[N] int64: one number for groups that are linked by images of the same content."""
    names, group = np.unique(manifest.groups, return_inverse=True)
    contents, content = np.unique(manifest.contents, return_inverse=True)
    nodes = len(names) + len(contents)
    edges = coo_array((np.ones(len(manifest), dtype=np.int8), (group, len(names) + content)), shape=(nodes, nodes))
    _, component = connected_components(edges, directed=False)
    return component[group].astype(np.int64)


def _members(manifest: Manifest) -> np.ndarray:
    """[N, L] bool: which classes each row counts for."""
    if manifest.task == "multilabel":
        return manifest.labels == 1
    return manifest.labels[:, None] == np.arange(len(manifest.classes))


def _carve(part: str, fraction: float, seed: int, groups: np.ndarray, members: np.ndarray) -> np.ndarray:
    """[N] bool: the rows of one fold."""
    folds = max(2, round(1 / fraction))
    largest = int(members.sum(axis=0).max())
    distinct = len(np.unique(groups))
    if folds > min(largest, distinct):
        raise Mistake(
            f"dataset.split.{part}: {fraction:g} means one of {folds} parts, but {len(groups)} images remain, in "
            f"{distinct} groups, {largest} images of the largest class; raise {part}, or add images."
        )
    number = stratified_folds(groups, members, folds, seed, _STAGES[part])
    return number == max(range(folds), key=lambda fold: int(members[number == fold].any(axis=0).sum()))


def _folds(
    classes: tuple[str, ...], groups: np.ndarray, members: np.ndarray, rows: np.ndarray, config: SplitConfig
) -> tuple[Fold, ...]:
    _refuse_few_groups(classes, groups[rows], members[rows], config.folds, f"one for each of {config.folds} folds")
    number = stratified_folds(groups[rows], members[rows], config.folds, config.seed, _STAGES["folds"])
    sentences = []
    for fold in range(config.folds):
        inside = members[rows[number == fold]].sum(axis=0)
        outside = members[rows].sum(axis=0) - inside
        sentences += [
            f'dataset.split.folds: class "{name}" has {outside[i]} training and {inside[i]} validation images in fold '
            f"{fold + 1} of {config.folds}, expected some in both; take fewer folds, or another split.seed."
            for i, name in enumerate(classes)
            if inside[i] == 0 or outside[i] == 0
        ]
    if sentences:
        raise Mistake(*sentences)
    return tuple((rows[number != fold], rows[number == fold]) for fold in range(config.folds))


def _refuse_unassigned(manifest: Manifest) -> None:
    missing = int((manifest.official == "").sum())
    if missing:
        raise Mistake(
            f"dataset: {missing} of {len(manifest)} images are in no part of the official split; assign them, or write "
            "split: {official: false}."
        )


def _refuse_leaks(manifest: Manifest) -> None:
    problems = Problems("dataset")
    for what, keys in (("groups", manifest.groups), ("identical images", manifest.contents)):
        if what == "identical images" and np.array_equal(manifest.groups, manifest.contents) and len(problems):
            continue  # where contents are the groups, once is enough
        names, index = np.unique(keys, return_inverse=True)
        inside = np.stack([np.isin(np.arange(len(names)), index[manifest.official == part]) for part in PARTS], axis=1)
        leaking = np.flatnonzero(inside.sum(axis=1) > 1)
        if not len(leaking):
            continue
        rows = np.flatnonzero(np.isin(index, leaking))
        counts = ", ".join(f"{int((manifest.official[rows] == part).sum())} in {part}" for part in PARTS)
        sentence = (
            f"dataset: {len(leaking)} {what} stand in more than one part of the official split ({counts} images), "
            "expected in one."
        )
        problems.add(f"counts of {what}", sentence)
        rows = rows[np.argsort(index[rows], kind="stable")]
        for same in np.split(rows, np.flatnonzero(np.diff(index[rows])) + 1):
            firsts = [(part, same[manifest.official[same] == part][:1]) for part in PARTS]
            shown = ", ".join(f"{manifest.paths[first[0]]} ({part})" for part, first in firsts if len(first))
            problems.add(f"{what} in several parts", f"dataset: belong together, expected in one part: {shown}.")
    if len(problems):
        remedy = "dataset: write split: {official: false} for a split that keeps them together, or correct the data."
        problems.add("remedies", remedy)
    problems.raise_if_any()


def _refuse_few_groups(
    classes: tuple[str, ...], groups: np.ndarray, members: np.ndarray, needed: int, each: str
) -> None:
    images, distinct = members.sum(axis=0), groups_of_classes(groups, members)
    sentences = [
        f'dataset: class "{name}" has {images[i]} images in {distinct[i]} groups to divide, expected at least {needed} '
        f"groups, {each}; add images, or leave the class out."
        for i, name in enumerate(classes)
        if distinct[i] < needed
    ]
    if sentences:
        raise Mistake(*sentences)


def _refuse_untrained_classes(classes: tuple[str, ...], members: np.ndarray, parts: dict[str, np.ndarray]) -> None:
    counts = {part: members[parts[part]].sum(axis=0) for part in PARTS}
    sentences = [
        f'dataset: class "{name}" has no training images ({counts["validation"][i]} in validation, {counts["test"][i]} '
        "in test); add some, join it with another class, or take another split.seed."
        for i, name in enumerate(classes)
        if counts["train"][i] == 0
    ]
    if sentences:
        raise Mistake(*sentences)
