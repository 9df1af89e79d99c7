"""Random datasets with groups, contents and official parts: no leak gets through, no row is lost.

Splits without an official part are in tests/trainables/data/test_splits.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.config import SplitConfig
from spaces.mistakes import Mistake
from trainables.data.manifest import Manifest
from trainables.data.splits import Split, split

PARTS = ("train", "validation", "test")
SCARCE = re.compile(r"has no training images|groups to divide, expected at least|but \d+ images remain")
"""Of a refusal for want of groups or images."""
SOME = settings(max_examples=80, deadline=None, database=None)


@st.composite
def manifests(draw: Any) -> Manifest:
    """Of 40 to 90 rows; official parts are cut by group, and then some rows are moved, or not."""
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = draw(st.integers(40, 90))
    groups = generator.integers(0, draw(st.integers(12, count)), count)
    contents = generator.integers(0, count * draw(st.sampled_from([5, 100])), count)
    shares = draw(st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.8, 0.2, 0.0), (0.0, 0.0, 0.0)]))
    part_of_group = generator.choice([*PARTS, ""], size=groups.max() + 1, p=[*shares, 1 - sum(shares)])
    official = part_of_group[groups]
    for _ in range(draw(st.integers(0, 2)) if sum(shares) else 0):
        official[generator.integers(count)] = generator.choice(PARTS)
    return Manifest(
        root=Path("nowhere"), classes=("a", "b"), metric="accuracy", labels=np.arange(count) % 2,
        paths=np.array([f"{i:04d}" for i in range(count)]), contents=np.array([f"c{c}" for c in contents]),
        groups=np.array([f"g{g}" for g in groups]), official=official.astype(np.str_),
    )  # fmt: skip


def leaks(manifest: Manifest, parts: list[np.ndarray]) -> bool:
    """Whether a group or a content has rows in two parts."""
    for names in (manifest.groups, manifest.contents):
        seen = [set(names[rows].tolist()) for rows in parts]
        if any(seen[i] & seen[j] for i in range(len(seen)) for j in range(i)):
            return True
    return False


def parts(made: Split) -> list[np.ndarray]:
    return [made.train, made.validation, made.test]


@SOME
@given(manifest=manifests(), seed=st.integers(0, 1000))
def test_official_parts_that_leak_are_refused_and_others_kept(manifest: Manifest, seed: int) -> None:
    """What was given is refused exactly where it leaks (or a class is too small); what comes out never leaks, holds
    every row once, and keeps the official test."""
    given_parts = [np.flatnonzero(manifest.official == part) for part in PARTS]
    leaking = leaks(manifest, given_parts)
    try:
        made = split(manifest, SplitConfig(seed=seed))
    except Mistake as mistake:
        assert ("more than one part" in str(mistake)) == leaking, mistake
        assert leaking or SCARCE.search(str(mistake)), mistake
        return
    assert not leaking and not leaks(manifest, parts(made))
    assert sorted(np.concatenate(parts(made)).tolist()) == list(range(len(manifest)))
    if len(given_parts[2]):
        assert made.test.tolist() == given_parts[2].tolist()


@SOME
@given(manifest=manifests(), seed=st.integers(0, 1000), count=st.integers(2, 5))
def test_folds_hold_every_row_once(manifest: Manifest, seed: int, count: int) -> None:
    """Each row outside of the test is in the validation of one fold, and no group or content is on both sides."""
    try:
        made = split(manifest, SplitConfig(seed=seed, folds=count, official=False))
    except Mistake:
        return
    rest = np.concatenate([made.train, made.validation])
    validated = np.concatenate([validation for _, validation in made.folds])
    assert sorted(validated.tolist()) == sorted(rest.tolist()) and len(made.folds) == count
    for train, validation in made.folds:
        assert sorted([*train.tolist(), *validation.tolist()]) == sorted(rest.tolist())
        assert not leaks(manifest, [train, validation, made.test])


def test_the_strategy_makes_leaks_and_sound_ones() -> None:
    """The first property is about both kinds: this dataset is refused, and its sound copy isn't."""
    rows = 60
    official = np.array(["train", "train", "validation", "test"])[np.arange(rows) % 4]
    names = np.array([f"{i:02d}" for i in range(rows)])
    labels = np.arange(rows) // 4 % 2
    sound = Manifest(
        root=Path("nowhere"), classes=("a", "b"), metric="accuracy", paths=names, contents=names, labels=labels,
        groups=names, official=official,
    )  # fmt: skip
    split(sound, SplitConfig())
    groups = names.copy()
    groups[3] = groups[0]
    leaking = replace(sound, groups=groups)
    with pytest.raises(Mistake, match="1 groups stand in more than one part"):
        split(leaking, SplitConfig())
