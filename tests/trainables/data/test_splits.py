from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.config import SplitConfig
from spaces.mistakes import Mistake
from trainables.data.manifest import Manifest
from trainables.data.splits import Split, split

SOME = settings(max_examples=40, deadline=None, database=None)  # no folder beside the tests


def parts(s: Split) -> list[np.ndarray]:
    return [s.train, s.validation, s.test]


@SOME
@given(seed=st.integers(0, 2**33), count=st.integers(60, 120), drawing=st.integers(0, 1000))
def test_every_row_once_and_no_group_or_content_in_two(seed: int, count: int, drawing: int) -> None:
    drawn = np.random.default_rng(drawing)
    groups = np.array([f"g{g}" for g in drawn.integers(0, count // 2, count)])
    contents = np.array([f"c{c}" for c in drawn.integers(0, count * 10, count)])
    labels = np.arange(count) % 3
    manifest = Manifest(
        root=Path("nowhere"), classes=("a", "b", "c"), metric="accuracy", labels=labels, groups=groups,
        paths=np.array([f"{i:04d}" for i in range(count)]), contents=contents,
    )  # fmt: skip
    config = SplitConfig(seed=seed, validation=0.25, test=0.25)
    s = split(manifest, config)
    assert sorted(np.concatenate(parts(s)).tolist()) == list(range(count))
    for names in (groups, contents):
        seen = [set(names[rows].tolist()) for rows in parts(s)]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    for rows in parts(s):
        assert rows.dtype == np.int64 and (np.diff(rows) > 0).all()
        assert set(labels[rows]) == {0, 1, 2}
    again = split(manifest, config)
    assert (again.digest, again.test_digest) == (s.digest, s.test_digest)


def test_stratified_and_pinned(invented) -> None:
    manifest = invented([0] * 160 + [1] * 40)
    s = split(manifest, SplitConfig())
    assert [len(rows) for rows in parts(s)] == [128, 32, 40]
    assert [int(manifest.labels[rows].sum()) for rows in parts(s)] == [25, 7, 8]
    assert s.test[:8].tolist() == [2, 10, 11, 22, 28, 36, 38, 43], "the same on every machine"
    other = split(manifest, SplitConfig(seed=1))
    assert other.test.tolist() != s.test.tolist() and other.digest != s.digest


def test_order_of_rows_does_not_matter(invented) -> None:
    manifest = invented([0, 1] * 50, groups=[f"g{i // 3}" for i in range(100)])
    s = split(manifest, SplitConfig())
    shuffled = manifest.take(np.random.default_rng(0).permutation(100))
    t = split(shuffled, SplitConfig())
    assert set(shuffled.paths[t.test]) == set(manifest.paths[s.test])
    assert t.test_digest == s.test_digest


def test_test_digest_is_of_the_test_alone(invented) -> None:
    manifest = invented([0, 1] * 50)
    first, second = split(manifest, SplitConfig()), split(manifest, SplitConfig(validation=0.5))
    assert first.digest != second.digest and first.test_digest == second.test_digest
    assert split(manifest, SplitConfig(test=0.5)).test_digest != first.test_digest


def test_test_contents_stay_where_groups_are_named_otherwise(invented) -> None:
    official = ["train", "validation", "test", "train", "test"] * 20
    alone = split(invented([0, 1] * 50, official=official), SplitConfig())
    pairs = [f"{part}{i // 10}" for i, part in enumerate(official)]
    grouped = split(invented([0, 1] * 50, groups=pairs, official=official), SplitConfig())
    assert alone.test_digest != grouped.test_digest and alone.test_contents == grouped.test_contents
    other = split(invented([0, 1] * 50), SplitConfig(test=0.5))
    assert other.test_contents != alone.test_contents


def test_multilabel_is_stratified_by_the_rarest_finding(invented) -> None:
    labels = np.zeros((200, 2))
    labels[:100, 0] = 1
    labels[90:120, 1] = 1
    labels[150:] = np.nan
    manifest = invented(labels)
    s = split(manifest, SplitConfig())
    assert int((manifest.labels[s.test, 1] == 1).sum()) == 6
    assert sorted(np.concatenate(parts(s)).tolist()) == list(range(200))


def official(*counts: int) -> list[str]:
    return ["train"] * counts[0] + ["validation"] * counts[1] + ["test"] * counts[2]


def test_official_parts_are_taken(invented) -> None:
    manifest = invented([0, 1] * 50, official=official(60, 20, 20))
    s = split(manifest, SplitConfig())
    assert s.validation.tolist() == list(range(60, 80)) and s.test.tolist() == list(range(80, 100))
    own = split(manifest, SplitConfig(official=False))
    assert own.test.tolist() != s.test.tolist()


def test_what_the_official_split_lacks_is_carved_from_training(invented) -> None:
    manifest = invented([0, 1] * 50, groups=[f"g{i // 2}" for i in range(100)], official=official(80, 0, 20))
    s = split(manifest, SplitConfig())
    assert s.test.tolist() == list(range(80, 100)) and len(s.validation) == 16
    assert not set(manifest.groups[s.validation]) & set(manifest.groups[s.train])
    manifest = invented([0, 1] * 50, official=official(80, 20, 0))
    s = split(manifest, SplitConfig())
    assert s.validation.tolist() == list(range(80, 100)) and len(s.test) == 16


def test_a_group_in_two_official_parts_is_refused_with_counts(invented) -> None:
    groups = [f"g{i}" for i in range(100)]
    groups[85:97] = groups[:12]
    manifest = invented([0, 1] * 50, groups=groups, official=official(60, 20, 20))
    with pytest.raises(Mistake) as mistake:
        split(manifest, SplitConfig())
    sentences = mistake.value.sentences
    assert "12 groups" in sentences[0] and "12 in train, 0 in validation, 12 in test" in sentences[0]
    assert len(sentences) == 13 and "0000.png (train), 0085.png (test)" in sentences[1]
    assert "official: false" in sentences[-1] and "g0" not in str(mistake.value)
    split(manifest, SplitConfig(official=False))


def test_the_same_content_in_two_official_parts_is_refused(invented) -> None:
    contents = [f"c{i}" for i in range(100)]
    contents[61] = contents[1]
    manifest = invented([0, 1] * 50, [f"g{i}" for i in range(100)], contents, official(60, 20, 20))
    with pytest.raises(Mistake, match="1 identical images"):
        split(manifest, SplitConfig())


def test_images_without_a_part_are_refused(invented) -> None:
    manifest = invented([0, 1] * 50, official=["", *official(59, 20, 20)])
    with pytest.raises(Mistake, match="1 of 100 images"):
        split(manifest, SplitConfig())


def test_small_classes_are_refused_with_counts(invented) -> None:
    labels = [0] * 50 + [1] * 50 + [2] * 9
    groups = [f"g{i}" for i in range(100)] + ["x"] * 5 + ["y"] * 4
    with pytest.raises(Mistake, match=r'class "c" has 9 images in 2 groups .* at least 3 groups'):
        split(invented(labels, groups, classes=("a", "b", "c")), SplitConfig())
    with pytest.raises(Mistake, match='"d" has 0 images in 0 groups'):
        split(invented([0, 1] * 50, classes=("a", "b", "d")), SplitConfig())
    manifest = invented([0] * 60 + [0, 1] * 20, official=official(60, 20, 20))
    with pytest.raises(Mistake, match=r'"b" has no training images \(10 in validation, 10 in test\)'):
        split(manifest, SplitConfig())
    with pytest.raises(Mistake, match="one of 5 parts, but 8 images"):
        split(invented([0, 1] * 4), SplitConfig())


def test_a_class_of_three_groups_reaches_training(invented) -> None:
    manifest = invented([0] * 100 + [1] * 100 + [2] * 3, classes=("a", "b", "c"))
    for seed in range(5):
        s = split(manifest, SplitConfig(seed=seed))
        assert [2 in manifest.labels[rows] for rows in parts(s)] == [True, True, True]


def test_folds_divide_training_and_validation_anew(invented) -> None:
    manifest = invented([0, 1] * 60, groups=[f"g{i // 2}" for i in range(120)])
    once, s = split(manifest, SplitConfig()), split(manifest, SplitConfig(folds=4))
    assert len(once.folds) == 1
    for found, expected in zip(once.folds[0], (once.train, once.validation), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(s.train, once.train)
    assert s.test_digest == once.test_digest and s.digest != once.digest
    rest = np.union1d(s.train, s.validation)
    assert len(s.folds) == 4
    for train, validation in s.folds:
        np.testing.assert_array_equal(np.union1d(train, validation), rest)
        assert not set(manifest.groups[train]) & set(manifest.groups[validation])
        assert train.dtype == validation.dtype == np.int64 and (np.diff(train) > 0).all()
        assert np.bincount(manifest.labels[validation]).tolist() == [12, 12]
    np.testing.assert_array_equal(np.sort(np.concatenate([v for _, v in s.folds])), rest)
    assert split(manifest, SplitConfig(folds=4, seed=1)).digest != s.digest


def test_folds_leave_the_official_test_alone(invented) -> None:
    manifest = invented([0, 1] * 50, official=official(60, 20, 20))
    s = split(manifest, SplitConfig(folds=5))
    assert s.test.tolist() == list(range(80, 100)) and s.validation.tolist() == list(range(60, 80))
    assert sorted(np.concatenate([v for _, v in s.folds]).tolist()) == list(range(80))


def test_folds_with_too_few_groups_of_a_class_are_refused_with_counts(invented) -> None:
    manifest = invented([0] * 50 + [1] * 8)
    with pytest.raises(Mistake, match=r'class "b" has 6 images in 6 groups .* at least 7 groups, one for each of 7'):
        split(manifest, SplitConfig(folds=7))


def test_a_fold_without_a_class_is_refused_with_counts(invented) -> None:
    """The rarer finding decides where both groups of the other one go."""
    findings = np.zeros((24, 2))
    findings[[0, 1, 2, 3, 4, 10], 0] = 1
    findings[[*range(5, 10), *range(11, 16)], 1] = 1
    groups = [*"xxx", *["y"] * 7, *["z"] * 6, *"ghijklmn"]
    manifest = invented(findings, groups=groups, official=official(16, 4, 4))
    with pytest.raises(Mistake) as mistake:
        split(manifest, SplitConfig(folds=2))
    found = mistake.value.sentences
    assert 'class "b" has 10 training and 0 validation images in fold 1 of 2, expected some in both' in found[0]
    assert 'class "b" has 0 training and 10 validation images in fold 2 of 2' in found[1] and len(found) == 2


def test_223414_images_in_seconds(invented) -> None:
    """Of five findings and 64,540 patients, as many as CheXpert has, from manifest to split."""
    count, drawn = 223_414, np.random.default_rng(0)
    patients = drawn.integers(0, 64_540, count)
    ill = drawn.normal(size=(64_540, 5))[patients] + drawn.normal(size=(count, 5)) > np.linspace(2.5, 0.5, 5)
    labels = np.where(drawn.random((count, 5)) < 0.3, np.nan, ill)
    start = time.process_time()
    manifest = invented(labels, groups=[f"patient{p:05d}" for p in patients], classes=tuple("abcde"))
    s = split(manifest, SplitConfig())
    assert time.process_time() - start < 20
    share = (labels == 1).mean(axis=0)
    for rows, size in zip(parts(s), (0.64, 0.16, 0.2), strict=True):
        assert abs(len(rows) / count - size) < 0.001
        assert np.abs((labels[rows] == 1).mean(axis=0) - share).max() < 0.01


def test_every_leak_is_in_full_and_ten_are_shown(invented: Callable[..., Manifest]) -> None:
    """25 patients with an image in training, one in validation and one in the test, and some of one part alone."""
    groups = [f"p{i:02d}" for i in range(25) for _ in range(3)] + [f"alone{i}" for i in range(6)]
    official = ["train", "validation", "test"] * 25 + ["train"] * 6
    manifest = invented([i % 2 for i in range(81)], groups=groups, official=official)
    with pytest.raises(Mistake) as caught:
        split(manifest, SplitConfig())
    shown, full = caught.value.sentences, caught.value.full
    assert shown[0] == (
        "dataset: 25 groups stand in more than one part of the official split (25 in train, 25 in validation, 25 in "
        "test images), expected in one."
    )
    assert sum("belong together" in sentence for sentence in shown) == 10
    assert "dataset: 15 more groups in several parts (25 in all)." in shown
    leaks = [sentence for sentence in full if "belong together" in sentence]
    assert len(leaks) == 25 and leaks[1] == (
        "dataset: belong together, expected in one part: 0003.png (train), 0004.png (validation), 0005.png (test)."
    )
    assert shown[-1] == full[-1] and "official: false" in full[-1]
