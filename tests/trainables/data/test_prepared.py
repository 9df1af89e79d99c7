from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spaces.config import DatasetConfig, SplitConfig
from spaces.mistakes import Mistake
from trainables.data.prepared import Prepared, prepare, sealed_test


@pytest.fixture
def config(tmp_path: Path, write_image) -> DatasetConfig:
    for i in range(60):
        write_image(tmp_path / "data" / "ab"[i % 2] / f"{i:02d}.png", i)
    return DatasetConfig(reader="folder", root="data")


def test_the_test_is_absent(config: DatasetConfig, cache: Path, tmp_path: Path) -> None:
    prepared = prepare(config, cache, tmp_path)
    test = sealed_test(config, cache, tmp_path, prepared)
    assert (len(prepared.train), len(prepared.validation), len(prepared.manifest), len(test)) == (38, 10, 48, 12)
    assert sorted(np.concatenate([prepared.train, prepared.validation]).tolist()) == list(range(48))
    assert not set(test.contents) & set(prepared.manifest.contents)
    assert prepared.test_counts == test.class_counts() == {"a": 6, "b": 6}
    prepared.save(tmp_path / "saved")
    stored = b"".join(path.read_bytes() for path in (tmp_path / "saved").iterdir())
    assert not any(content.encode() in stored for content in test.contents.tolist())
    assert not set(test.paths) & set(Prepared.load(tmp_path / "saved").manifest.paths)


def test_saved_and_loaded_is_the_same(config: DatasetConfig, cache: Path, tmp_path: Path) -> None:
    prepared = prepare(config, cache, tmp_path)
    prepared.save(tmp_path / "saved")
    again = Prepared.load(tmp_path / "saved")
    assert again.digests == prepared.digests and again.test_counts == prepared.test_counts
    assert again.manifest.digest() == prepared.manifest.digest()
    np.testing.assert_array_equal(again.train, prepared.train)
    np.testing.assert_array_equal(again.validation, prepared.validation)


@pytest.mark.parametrize("folds", [1, 3])
def test_folds_are_kept(config: DatasetConfig, cache: Path, tmp_path: Path, folds: int) -> None:
    config = config.model_copy(update={"split": SplitConfig(folds=folds)})
    prepared = prepare(config, cache, tmp_path)
    prepared.save(tmp_path / "saved")
    again = Prepared.load(tmp_path / "saved")
    assert len(again.folds) == len(prepared.folds) == folds
    for found, expected in zip(again.folds, prepared.folds, strict=True):
        for rows, same in zip(found, expected, strict=True):
            np.testing.assert_array_equal(rows, same)
            assert rows.dtype == np.int64
    contents = prepared.manifest.contents
    assert sorted(contents[np.concatenate([v for _, v in again.folds])]) == sorted(
        contents if folds > 1 else contents[prepared.validation]
    )
    assert not set(sealed_test(config, cache, tmp_path, prepared).contents) & set(contents)


@pytest.mark.parametrize("spoil", ["flip", "remove", "other manifest"])
def test_damage_is_refused(config: DatasetConfig, cache: Path, tmp_path: Path, spoil: str) -> None:
    prepared = prepare(config, cache, tmp_path)
    prepared.save(tmp_path / "saved")
    file = tmp_path / "saved" / "prepared.json"
    if spoil == "flip":
        file.write_text(file.read_text().replace('"train": [0, ', '"train": [1, ', 1))
    elif spoil == "remove":
        file.unlink()
    else:
        prepared.manifest.take(np.arange(47, -1, -1)).save(tmp_path / "saved" / "manifest.npz")
    with pytest.raises(Mistake, match="damaged|no such file|isn't the manifest"):
        Prepared.load(tmp_path / "saved")


def test_the_same_from_anywhere(config: DatasetConfig, cache: Path, tmp_path: Path) -> None:
    here = prepare(config, cache, tmp_path)
    (tmp_path / "data").rename(tmp_path / "moved")
    there = prepare(config.model_copy(update={"root": str(tmp_path / "moved")}), tmp_path / "cold", None)
    assert there.digests == here.digests
    sealed_test(config.model_copy(update={"root": "moved"}), cache, tmp_path, here.digests)


def test_other_data_or_another_split_is_refused(
    config: DatasetConfig, cache: Path, tmp_path: Path, write_image
) -> None:
    prepared = prepare(config, cache, tmp_path)
    with pytest.raises(Mistake, match="other data: its split"):
        sealed_test(config.model_copy(update={"split": SplitConfig(seed=1)}), cache, tmp_path, prepared)
    write_image(tmp_path / "data" / "a" / "more.png", 999)
    with pytest.raises(Mistake, match="other data: its data"):
        sealed_test(config, cache, tmp_path, prepared)
