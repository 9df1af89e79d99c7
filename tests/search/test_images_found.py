"""What is told of images that look alike: of every reader, and of the test too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageEnhance

from search.check import describe
from search.images_found import SHOWN_OF_SET, alike_lines, copies_lines, in_full
from search.plan import Plan, plan
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from tests.trainables.data.conftest import write_image as write_image  # a fixture
from tests.trainables.data.readers.test_spoiled import DATASETS, good_csv, good_folder, settings
from trainables.data.audit import Alike, Copies
from trainables.data.prepared import prepare_for_audit


def drawn(seed: int) -> Image.Image:
    """An image in which a perceptual hash sees the same after it was stored otherwise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
    return Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)


def store(path: Path, image: Image.Image) -> None:
    """In the place of a file, in its format."""
    if path.suffix != ".dcm":
        image.save(path)
        return
    data = pydicom.dcmread(path)
    data.Rows, data.Columns = image.height, image.width
    data.PixelData = (np.asarray(image).astype(np.uint16) * 257).tobytes()  # as 16 bits, which the tests' DICOM has
    data.save_as(path)


def put_near_duplicates(config: SearchConfig, cache: Path) -> tuple[str, str]:
    """Makes an image of the test one of another group's in training, a little brighter, and gives their paths."""
    paths = ("", "")
    for seed in range(50):
        _, manifest, parts = prepare_for_audit(config.dataset, cache, None)
        of = dict(zip(manifest.paths.tolist(), parts.tolist(), strict=True))
        if [of.get(path) for path in paths] == ["train", "test"]:
            return paths
        # Where contents are the groups, new ones are dealt out anew.
        [train, *_], [test, *_] = np.flatnonzero(parts == "train"), np.flatnonzero(parts == "test")
        paths = paths if paths[0] else (str(manifest.paths[train]), str(manifest.paths[test]))
        store(manifest.root / paths[0], drawn(seed))
        store(manifest.root / paths[1], ImageEnhance.Brightness(drawn(seed)).enhance(0.9))
    raise AssertionError("never in train and test")


@pytest.mark.parametrize("reader", DATASETS)
def test_every_reader_tells_of_a_test_image_that_looks_like_one_of_training(
    reader: str, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    root = tmp_path / "data"
    options = DATASETS[reader][0](root, write_image)
    offered = reader in ("folder", "csv", "aptos2019", "isic2019")
    config = settings(reader, root, {**options, **({"near_duplicates": "ignore"} if offered else {})})
    train, test = put_near_duplicates(config, tmp_path / "cache")
    planned = plan(config, tmp_path, thorough=True)
    first = planned.alike[0]
    assert set(first.images) == {(train, "train"), (test, "test")} and first.groups == 2
    lines = alike_lines(planned.alike, config)
    assert "1 of several groups, 1 in several parts of the split" in lines[0]
    assert f"{train} (train)" in lines[1] and f"{test} (test)" in lines[1]
    assert lines[-1].startswith("WARNING: the split tears 1 sets") and "(1 in test, 1 in train)" in lines[-1]
    assert ("near_duplicates: group" in lines[-1]) == offered
    assert ("out of the tables" in lines[-1]) != offered
    if offered:
        joined = settings(reader, root, {**options, "near_duplicates": "group"}, official=False)
        planned = plan(joined, tmp_path, thorough=True)
        assert [one.groups for one in planned.alike] == [1] and len(planned.alike[0].parts) == 1
        assert not any("WARNING" in line for line in alike_lines(planned.alike, joined))


def test_what_is_joined_across_official_parts_is_refused(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    root = tmp_path / "data"
    options = good_csv(root, write_image)
    put_near_duplicates(settings("csv", root, options), tmp_path / "cache")
    with pytest.raises(Mistake, match="1 groups stand in more than one part of the official split"):
        plan(settings("csv", root, {**options, "near_duplicates": "group"}), tmp_path, thorough=True)


def test_folds_tear_apart_too(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    root = tmp_path / "data"
    config = settings("folder", root, good_folder(root, write_image), folds=3)
    _, manifest, parts = prepare_for_audit(config.dataset, tmp_path / "cache", None)
    assert set(parts.tolist()) == {"fold 1", "fold 2", "fold 3", "test"}
    for number in (1, 2):
        path = manifest.root / str(manifest.paths[np.flatnonzero(parts == f"fold {number}")[0]])
        store(path, ImageEnhance.Brightness(drawn(3)).enhance(1 - number / 20))
    # Other contents are dealt out otherwise: what is asked is that what is told is how they lie.
    planned = plan(config, tmp_path, thorough=True)
    _, manifest, parts = prepare_for_audit(config.dataset, tmp_path / "cache", None)
    of = dict(zip(manifest.paths.tolist(), parts.tolist(), strict=True))
    (alike,) = planned.alike
    assert all(of[path] == part for path, part in alike.images) and alike.groups == 2


def test_ten_sets_are_printed_and_all_are_kept(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    root = tmp_path / "data"
    config = settings("folder", root, good_folder(root, write_image))
    for index in range(12):
        for copy in range(8 if index == 0 else 2):
            store(
                write_image(root / "ab"[copy % 2] / f"like{index:02d}-{copy}.png"),
                ImageEnhance.Brightness(drawn(index)).enhance(1 - copy / 40),
            )
    planned = plan(config, tmp_path, thorough=True)
    file = tmp_path / "runs" / "check-s.txt"
    assert len(planned.alike) == 12 and all(one.labels_differ for one in planned.alike)
    lines = [line for line in describe(planned, file, None) if isinstance(line, str)]
    at = next(i for i, line in enumerate(lines) if "look like another one that isn't a copy" in line)
    assert "30 images" in lines[at] and "in 12 sets" in lines[at] and "12 with different labels" in lines[at]
    assert sum("like" in line and "; different labels" in line for line in lines[at + 1 : at + 11]) == 10
    assert lines[at + 11] == "  and 2 more"
    assert any(" and 3 more; different labels" in line for line in lines), f"of 8, {SHOWN_OF_SET} are shown"
    assert f"What is too long to be printed is in {file}." in lines
    kept = file.read_text()
    assert kept.count("; different labels") == 12 and kept.count("like00-") == 8


def test_what_is_short_is_not_kept() -> None:
    one = Alike((("a.png", "train"), ("b.png", "train")), 1, False)
    none = Copies(0, 0, ())
    assert in_full(none, (one,) * 10) == [] and len(in_full(none, (one,) * 11)) == 12
    conflicts = Copies(22, 11, tuple((f"{i}.png", f"{i}b.png") for i in range(11)))
    assert copies_lines(conflicts)[-1] == "  and 1 more" and len(in_full(conflicts, (one,))) == 12
    many = Copies(8, 2, (("a.png", "b.png"),), (tuple(f"c{i}.png" for i in range(6)),))
    assert copies_lines(many)[-1] == "  c0.png, c1.png, c2.png, c3.png, c4.png and 1 more"
    assert in_full(many, ()) == ["Copies of one image with one label:", f"  {', '.join(many.agreeing[0])}"]


def test_copies_within_the_test_are_told_too(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    root = tmp_path / "data"
    config = settings("csv", root, good_csv(root, write_image))
    _, manifest, parts = prepare_for_audit(config.dataset, tmp_path / "cache", None)
    tested, labels = np.flatnonzero(parts == "test"), manifest.labels
    [first, other] = (next(int(row) for row in tested if labels[row] == label) for label in (0, 1))
    (root / manifest.paths[other]).write_bytes((root / manifest.paths[first]).read_bytes())
    planned = plan(config, tmp_path, thorough=True)
    assert planned.copies is not None
    assert set(planned.copies.conflicts[0]) == {manifest.paths[first], manifest.paths[other]}
    assert "1 of them are labelled differently in their copies:" in copies_lines(planned.copies)


def test_nothing_alike(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    root = tmp_path / "data"
    planned: Plan = plan(settings("folder", root, good_folder(root, write_image)), tmp_path, thorough=True)
    (line,) = alike_lines(planned.alike, planned.config)
    assert line.startswith("No image of any part looks like another one")
