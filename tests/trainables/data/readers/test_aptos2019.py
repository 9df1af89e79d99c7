from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from spaces.config import DatasetConfig, SplitConfig
from spaces.mistakes import Mistake
from trainables.data.manifest import Manifest
from trainables.data.readers import read
from trainables.data.readers.aptos2019 import NO_PATIENTS
from trainables.data.splits import split


def of(root: Path, cache: Path, **options) -> Manifest:
    return read(DatasetConfig(reader="aptos2019", root=str(root), options=options), cache, None)


@pytest.fixture
def competition(tmp_path: Path, write_image) -> Path:
    root = tmp_path / "competition"
    rows = ["id_code,diagnosis"]
    for i in range(20):
        write_image(root / "train_images" / f"id{i:02d}.png", i)
        rows.append(f"id{i:02d},{i % 5}")
    (root / "train.csv").write_text("\n".join(rows))
    (root / "test.csv").write_text("id_code\nunlabelled\n")
    return root


def make_reupload(root: Path, write_image, doubled: bool) -> Path:
    seed = 0
    for table, folder, count in (
        ("train_1", "train_images", 10),
        ("valid", "val_images", 5),
        ("test", "test_images", 5),
    ):
        rows = ["id_code,diagnosis"]
        for _ in range(count):
            inner = root / folder / folder if doubled else root / folder
            write_image(inner / f"i{seed}.png", seed)
            rows.append(f"i{seed},{seed % 5}")
            seed += 1
        (root / f"{table}.csv").write_text("\n".join(rows))
    return root


def test_competition_copy(competition: Path, cache: Path) -> None:
    manifest = of(competition, cache)
    assert (manifest.task, len(manifest.classes), manifest.metric) == ("ordinal", 5, "quadratic_weighted_kappa")
    assert len(manifest) == 20 and set(manifest.official.tolist()) == {""} and manifest.policy == "fundus"
    assert manifest.labels.tolist() == [i % 5 for i in range(20)]
    assert manifest.paths[3] == "train_images/id03.png" and manifest.crop == "disc"
    assert manifest.caveats == (NO_PATIENTS,) and "no image looks like another one" in manifest.notes[0]
    assert of(competition, cache, near_duplicates="ignore").notes == ()


@pytest.mark.parametrize("doubled", [True, False])
def test_reupload(tmp_path: Path, cache: Path, write_image, doubled: bool) -> None:
    manifest = of(make_reupload(tmp_path / "data", write_image, doubled), cache)
    parts = manifest.official.tolist()
    assert [parts.count(part) for part in ("train", "validation", "test")] == [10, 5, 5]
    for path, part, label in zip(manifest.paths, parts, manifest.labels, strict=True):
        pieces = path.split("/")
        assert len(pieces) == 2 + doubled and pieces[0].split("_")[0] == {"validation": "val"}.get(part, part)
        assert int(pieces[-1][1:-4]) % 5 == label
    assert len(split(manifest, SplitConfig()).test) == 5


def test_both_layouts_have_the_same_digest(tmp_path: Path, cache: Path, write_image) -> None:
    manifests = [of(make_reupload(tmp_path / str(d), write_image, d), cache) for d in (True, False)]
    assert manifests[0].digest() == manifests[1].digest()


def test_conflicting_copies_are_left_out_or_refused(competition: Path, cache: Path) -> None:
    images = competition / "train_images"
    shutil.copy(images / "id00.png", images / "id01.png")  # grades 0 and 1
    shutil.copy(images / "id02.png", images / "id07.png")  # both grade 2
    manifest = of(competition, cache)
    assert len(manifest) == 18
    assert not {"train_images/id00.png", "train_images/id01.png"} & set(manifest.paths.tolist())
    assert any("2 images left out of every part: 1 contents" in caveat for caveat in manifest.caveats)
    assert any("1 images are byte-identical copies" in note for note in manifest.notes)
    rows = [manifest.paths.tolist().index(f"train_images/{name}.png") for name in ("id02", "id07")]
    assert manifest.groups[rows[0]] == manifest.groups[rows[1]]
    with pytest.raises(Mistake) as mistake:
        of(competition, cache, conflicts="refuse")
    assert "id00.png (grade 0), train_images/id01.png (grade 1)" in mistake.value.sentences[0]


def smooth(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)


def test_images_that_look_alike_are_a_group(competition: Path, cache: Path) -> None:
    images = competition / "train_images"
    smooth(0).save(images / "id00.png")
    smooth(0).resize((80, 90)).save(images / "id01.png")  # grades 0 and 1
    smooth(2).save(images / "id02.png")
    ImageEnhance.Brightness(smooth(2)).enhance(0.9).save(images / "id07.png")  # both grade 2
    manifest = of(competition, cache)
    groups = manifest.groups.tolist()
    assert groups[0] == groups[1] and groups[2] == groups[7] and len(set(groups)) == 18 and len(groups) == 20
    (note,) = (note for note in manifest.notes if "look like" in note)
    assert "4 images look like another one" in note and "2 of these images look like one with another label" in note
    assert len(set(of(competition, cache, near_duplicates="ignore").groups.tolist())) == 20


def test_images_that_look_alike_in_two_parts_are_a_leak(tmp_path: Path, cache: Path, write_image) -> None:
    root = make_reupload(tmp_path / "data", write_image, True)
    smooth(0).save(root / "train_images/train_images/i0.png")
    smooth(0).resize((80, 90)).save(root / "test_images/test_images/i15.png")
    with pytest.raises(Mistake, match=r"1 groups .* \(1 in train, 0 in validation, 1 in test images\)"):
        split(of(root, cache), SplitConfig())
    split(of(root, cache, near_duplicates="ignore"), SplitConfig())


def test_a_copy_in_two_parts_is_a_leak(tmp_path: Path, cache: Path, write_image) -> None:
    root = make_reupload(tmp_path / "data", write_image, True)
    shutil.copy(root / "train_images/train_images/i0.png", root / "test_images/test_images/i15.png")
    manifest = of(root, cache)
    with pytest.raises(Mistake, match="official: false"):
        split(manifest, SplitConfig())


def test_every_defect_in_one_run(competition: Path, cache: Path, tmp_path: Path, write_image) -> None:
    table = competition / "train.csv"
    (competition / "train_images" / "id17.png").unlink()
    (competition / "train_images" / "id18.png").unlink()
    (competition / "train_images" / "id18.png").symlink_to(write_image(tmp_path / "outside.png", 5))
    rows = ["id00,1", "missing,2", "../x,0", ",3", "id19", "id19,1,2", "id14,2.0", "id13,-1"]
    text = table.read_text().replace("id15,0", "id15,5").replace("id16,1", "id16,")
    table.write_text("\ufeff" + "\r\n".join([*text.split("\n"), "", *rows]), encoding="utf-8")
    with pytest.raises(Mistake) as mistake:
        of(competition, cache)
    found = mistake.value.sentences
    expected = (
        'aptos2019: train.csv row 17: diagnosis is "5", expected 0 to 4.',
        "aptos2019: train.csv row 18: diagnosis is empty",
        'row 19: "train_images/id17.png" no such file',
        'row 20: "train_images/id18.png" is a link that leaves',
        'row 23: id_code "id00" stands in row 2 already',
        'row 24: "train_images/missing.png" no such file',
        'row 25: "train_images/../x.png" leaves',
        "row 26: id_code is empty",
        "aptos2019: train.csv row 27: expected 2 cells as in the header, found 1.",
        "row 28: expected 2 cells as in the header, found 3",
        'row 29: diagnosis is "2.0"',
        'row 29: id_code "id14" stands in row 16',
        'row 30: diagnosis is "-1"',
        'row 30: id_code "id13" stands in row 15',
    )
    for part in expected:
        assert sum(part in sentence for sentence in found) == 1, (part, found)
    assert len(found) == len(expected)


def test_missing_tables_and_columns(tmp_path: Path, cache: Path, write_image, competition: Path) -> None:
    (tmp_path / "none" / "images").mkdir(parents=True)
    with pytest.raises(Mistake, match="expected train.csv .* found images"):
        of(tmp_path / "none", cache)
    root = make_reupload(tmp_path / "data", write_image, False)
    (root / "valid.csv").unlink()
    (root / "test.csv").write_text("id,diagnosis\nx,1\n")
    with pytest.raises(Mistake) as mistake:
        of(root, cache)
    assert [s.split(":")[1].strip() for s in mistake.value.sentences] == ["valid.csv", "test.csv"]
    (root / "train.csv").write_text("id_code,diagnosis\n")
    with pytest.raises(Mistake, match="two different copies"):
        of(root, cache)
