from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaces.config import DatasetConfig, SplitConfig
from spaces.mistakes import Mistake
from trainables.data.manifest import ALONE, Manifest
from trainables.data.readers import read
from trainables.data.splits import split


@pytest.fixture
def root(tmp_path: Path, write_image) -> Path:
    for i in range(6):
        write_image(tmp_path / "data" / "images" / f"{i}.png", i)
    return tmp_path / "data"


def of(root: Path, cache: Path, text: str | bytes, **options) -> Manifest:
    (root / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(DatasetConfig(reader="csv", root=str(root), options={"table": "t.csv", **options}), cache, None)


def sentences(root: Path, cache: Path, text: str | bytes, **options) -> tuple[str, ...]:
    with pytest.raises(Mistake) as mistake:
        of(root, cache, text, **options)
    return mistake.value.sentences


def test_reads_path_and_label_in_any_order_of_rows(root: Path, cache: Path) -> None:
    rows = ["images/0.png, cat ", "./images/2.png,dog", "images/1.png,cat"]
    manifest = of(root, cache, "path,label\n" + "\n".join(rows))
    assert manifest.paths.tolist() == ["images/0.png", "images/1.png", "images/2.png"]
    assert manifest.classes == ("cat", "dog") and manifest.labels.tolist() == [0, 0, 1]
    assert manifest.groups.tolist() == manifest.contents.tolist() and manifest.caveats == (ALONE,)
    assert of(root, cache, "path,label\n" + "\n".join(rows[::-1])).digest() == manifest.digest()


def test_group_split_and_classes(root: Path, cache: Path) -> None:
    text = 'file,y,patient,part,"a\nnote"\nimages/0.png,b,p1,train,"x\ny"\nimages/1.png,a,p1,train,\n'
    text += "images/2.png,a,,VAL,\n"
    manifest = of(root, cache, text, path="file", label="y", group="patient", split="part", classes=["b", "c", "a"])
    assert manifest.classes == ("b", "c", "a") and manifest.labels.tolist() == [0, 2, 2]
    assert manifest.official.tolist() == ["train", "train", "validation"]
    assert manifest.groups[0] == manifest.groups[1] != manifest.groups[2] == manifest.contents[2]
    assert manifest.notes == ("t.csv: 1 images have no patient; each is a group of its own.",)
    assert manifest.caveats == ("1 of 3 images are in no known group: each counts as one by itself.",)


def test_byte_order_mark_and_windows_lines(root: Path, cache: Path) -> None:
    text = b"\xef\xbb\xbfpath,label\r\nimages/0.png,a\r\n\r\nimages/1.png,b\r\n"
    assert of(root, cache, text).labels.tolist() == [0, 1]


def test_a_group_in_two_given_parts_is_refused_by_the_split(root: Path, cache: Path) -> None:
    text = "path,label,g,s\nimages/0.png,a,p1,train\nimages/1.png,b,p1,test\nimages/2.png,a,p2,validation\n"
    manifest = of(root, cache, text, group="g", split="s")
    with pytest.raises(Mistake, match="1 groups stand in more than one part"):
        split(manifest, SplitConfig())


def test_every_problem_with_its_row(root: Path, cache: Path, tmp_path: Path, write_image) -> None:
    (root / "images" / "out.png").symlink_to(write_image(tmp_path / "out.png"))
    (root / "escape").symlink_to(tmp_path)
    rows = [
        "images/0.png,a,train",  # row 2
        "./images/0.png,a,train",
        "images/1.png,,train",
        "images/2.png,cat,train",
        "images/missing.png,a,train",
        "../out.png,a,train",
        f"{tmp_path}/out.png,a,train",
        '"images/out.png",a,train',
        "",
        "escape/out.png,b,train",  # row 11
        "images/3.png,b,tset",
        ",b,train",
    ]
    found = sentences(root, cache, "path,label,s\n" + "\n".join(rows), split="s", classes=["a", "b"])
    for part in (
        't.csv row 3: "images/0.png" stands in row 2 already',
        "t.csv row 4: label is empty",
        't.csv row 5: label is "cat", expected one of the classes. Known: a, b.',
        't.csv row 6: "images/missing.png" no such file',
        't.csv row 7: "../out.png" leaves the dataset\'s root',
        f't.csv row 8: "{tmp_path}/out.png" leaves the dataset\'s root',
        't.csv row 9: "images/out.png" is a link that leaves',
        't.csv row 11: "escape/out.png" is a link that leaves',
        't.csv row 12: s is "tset", expected train, validation or test',
        "t.csv row 13: path is empty",
    ):
        assert sum(part in sentence for sentence in found) == 1, (part, found)
    assert len(found) == 10


def test_many_of_a_kind_are_counted(root: Path, cache: Path) -> None:
    rows = "\n".join(f"images/none{i}.png,a" for i in range(25)) + "\nimages/0.png,b"
    found = sentences(root, cache, "path,label\n" + rows)
    assert len(found) == 11 and found[-1] == "t.csv: 15 more images that can't be used (25 in all)."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("path,label\n\n", "has a header but no rows"),
        ("path;label\nimages/0.png;a", 'column "path" is missing'),
        ("pth,label\nimages/0.png,a", 'column "path" is missing. Did you mean "pth"?'),
        ("path,label,label\nimages/0.png,a,b", 'column "label" stands twice'),
        ("path,label\nimages/0.png,a,b", "row 2: expected 2 cells as in the header, found 3"),
        ("path,label\nimages/0.png,a\nimages/1.png,a", "label has 1 class"),
        (b"path,label\n\xff\xfe,a", "not UTF-8"),
        ('path,label\n"images/0.png"x,a', "not a CSV table"),
        (b"path,label\nimages/\x00.png,a\nimages/0.png,b", "no such file"),
    ],
)
def test_spoiled_tables(root: Path, cache: Path, text: str | bytes, expected: str) -> None:
    assert any(expected in sentence for sentence in sentences(root, cache, text))


@pytest.mark.parametrize("table", ["../t.csv", "missing.csv"])
def test_the_table_lies_in_the_root(root: Path, cache: Path, table: str) -> None:
    (root.parent / "t.csv").write_text("path,label\nimages/0.png,a\nimages/1.png,b\n")
    (sentence,) = sentences(root, cache, "path,label\n", table=table)
    assert sentence.startswith(f"{table}: ") and ("leaves" in sentence or "no such file" in sentence)


def test_near_duplicates_are_joined_where_asked(root: Path, cache: Path) -> None:
    """An image stored again, smaller, and as another patient's."""
    drawn = np.random.default_rng(3).integers(0, 256, (16, 16), dtype=np.uint8)
    image = Image.fromarray(drawn).resize((96, 96), Image.Resampling.BICUBIC)
    image.save(root / "images" / "0.png")
    image.resize((60, 60)).save(root / "images" / "3.png")
    text = "path,label,g\n" + "\n".join(f"images/{i}.png,{'ab'[i % 2]},p{i}" for i in range(6))
    assert len(set(of(root, cache, text, group="g").groups.tolist())) == 6, "not by default"
    manifest = of(root, cache, text, group="g", near_duplicates="group")
    assert manifest.groups[0] == manifest.groups[3] and len(set(manifest.groups.tolist())) == 5
    assert "2 images look like another one" in manifest.notes[-1]
