from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaces.config import DatasetConfig
from spaces.mistakes import Mistake
from trainables.data.manifest import ALONE, Manifest
from trainables.data.readers import read


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def of(root: Path, cache: Path, **options) -> Manifest:
    return read(DatasetConfig(reader="folder", root=str(root), options=options), cache, None)


def sentences(root: Path, cache: Path, **options) -> tuple[str, ...]:
    with pytest.raises(Mistake) as mistake:
        of(root, cache, **options)
    return mistake.value.sentences


def test_classes_are_folders(root: Path, cache: Path, write_image) -> None:
    write_image(root / "dog" / "deep" / "er" / "2.JPG", 2)
    write_image(root / "cat" / "1.png", 1)
    write_image(root / "dog" / "0.png", 1)
    for ignored in (".hidden/x.txt", "cat/.DS_Store", "cat/Thumbs.db", "__MACOSX/cat/1.png", "LICENCE.txt"):
        (root / ignored).parent.mkdir(exist_ok=True, parents=True)
        (root / ignored).write_text("x")
    manifest = of(root, cache)
    assert manifest.classes == ("cat", "dog") and manifest.metric == "balanced_accuracy"
    assert manifest.paths.tolist() == ["cat/1.png", "dog/0.png", "dog/deep/er/2.JPG"]
    assert manifest.labels.tolist() == [0, 1, 1]
    assert manifest.groups.tolist() == manifest.contents.tolist(), "the same content is a group"
    assert manifest.caveats == (ALONE,), "whom images belong to isn't known"
    assert len(set(manifest.contents.tolist())) == 2
    assert set(manifest.official.tolist()) == {""}


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Validation"])
def test_official_split(root: Path, cache: Path, write_image, validation: str) -> None:
    for i, part in enumerate(("train", validation, "test")):
        for j, name in enumerate("ab"):
            write_image(root / part / name / "0.png", 2 * i + j)
    manifest = of(root, cache)
    assert manifest.classes == ("a", "b")
    expected = {"train": "train", validation: "validation", "test": "test"}
    for path, part, label in zip(manifest.paths, manifest.official, manifest.labels, strict=True):
        assert (part, "ab"[label]) == (expected[path.split("/")[0]], path.split("/")[1])


def test_groups_by_expression(root: Path, cache: Path, write_image) -> None:
    for i, name in enumerate(("a/p1_0.png", "a/p1_1.png", "b/p2_0.png")):
        write_image(root / name, i)
    manifest = of(root, cache, groups=r"/(?P<group>p\d+)_")
    assert manifest.groups.tolist() == ["p1", "p1", "p2"] and manifest.caveats == ()
    write_image(root / "b" / "other.png", 9)
    (sentence,) = sentences(root, cache, groups=r"/(?P<group>p\d+)_")
    assert sentence.startswith("b/other.png: the expression")
    assert "named group" in sentences(root, cache, groups=r"/(p\d+)_")[0]


def test_everything_wrong_is_told_together(root: Path, cache: Path, write_image, tmp_path: Path) -> None:
    write_image(root / "a" / "0.png")
    write_image(root / "lost.png")
    (root / "b").mkdir()
    (root / "a" / "notes.docx").write_text("x")
    outside = write_image(tmp_path / "outside.png")
    (root / "a" / "linked.png").symlink_to(outside)
    (root / "a" / "folder").symlink_to(tmp_path)
    (root / "a" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    found = sentences(root, cache)
    for part in (
        "lost.png: an image outside of any class",
        "b/: a class folder without images",
        "a/notes.docx: not an image",
        "a/linked.png: is a link that leaves",
        "a/folder: a link to a folder",
        "a/broken.png: no such file",
        'only images of class "a"',
    ):
        assert sum(part in sentence for sentence in found) == 1, part
    assert len(found) == 7 and str(tmp_path) not in " ".join(found)


def test_a_link_inside_the_root_is_fine(root: Path, cache: Path, write_image) -> None:
    write_image(root / "b" / "0.png")
    write_image(root / "a" / "0.png", 1)
    (root / "a" / "1.png").symlink_to("0.png")
    assert len(of(root, cache)) == 3


def test_many_of_a_kind_are_counted(root: Path, cache: Path, write_image) -> None:
    for name in "ab":
        write_image(root / name / "0.png")
    for i in range(14):
        (root / "a" / f"{i}.txt").write_text("x")
    found = sentences(root, cache)
    assert len(found) == 11 and found[-1] == "dataset: 4 more files that aren't images (14 in all)."


def test_no_classes(root: Path, cache: Path) -> None:
    root.mkdir()
    assert sentences(root, cache) == ("the dataset's root: expected a folder for each class, found none.",)


def test_unclear_parts_are_refused(root: Path, cache: Path, write_image) -> None:
    for part in ("train", "val", "valid", "extra"):
        write_image(root / part / "a" / "0.png")
    found = sentences(root, cache)
    assert len(found) == 2 and '"extra"' in found[0] and "val and valid all mean" in found[1]


def test_one_unusable_name(root: Path, cache: Path, write_image) -> None:
    write_image(root / "b" / "0.png")
    image = write_image(root / "a" / "0.png")
    image.rename(root / "a" / os.fsdecode(b"\xff.png"))
    found = sentences(root, cache)
    assert "isn't UTF-8" in found[0]
    found[0].encode()


def test_near_duplicates_are_joined_where_asked(root: Path, cache: Path, write_image) -> None:
    for i in range(4):
        write_image(root / "ab"[i % 2] / f"{i}.png", i)
    drawn = np.random.default_rng(3).integers(0, 256, (16, 16), dtype=np.uint8)
    image = Image.fromarray(drawn).resize((96, 96), Image.Resampling.BICUBIC)
    image.save(root / "a" / "0.png")
    image.resize((60, 60)).save(root / "b" / "1.png")
    assert len(set(of(root, cache).groups.tolist())) == 4, "not by default"
    groups = dict(zip((manifest := of(root, cache, near_duplicates="group")).paths, manifest.groups, strict=True))
    assert groups["a/0.png"] == groups["b/1.png"] and len(set(groups.values())) == 3
