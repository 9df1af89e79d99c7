from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaces.config import DatasetConfig, SplitConfig
from spaces.mistakes import Mistake
from trainables.data.manifest import Manifest
from trainables.data.readers import read
from trainables.data.readers.isic2019 import CLASSES
from trainables.data.splits import split

HEADER = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
FACTS = "image,age_approx,anatom_site_general,lesion_id,sex"


def of(root: Path, cache: Path, **options) -> Manifest:
    return read(DatasetConfig(reader="isic2019", root=str(root), options=options), cache, None)


def sentences(root: Path, cache: Path, **options) -> tuple[str, ...]:
    with pytest.raises(Mistake) as mistake:
        of(root, cache, **options)
    return mistake.value.sentences


def one_hot(label: int) -> str:
    return ",".join("1.0" if i == label else "0.0" for i in range(9))


@pytest.fixture
def make(tmp_path: Path, write_image) -> Callable[..., Path]:
    """48 training images of eight classes, two of each lesion but for the first four, which have none."""

    def write(doubled: bool = False, name: str = "isic") -> Path:
        root = tmp_path / name
        folder = root / "ISIC_2019_Training_Input"
        folder = folder / folder.name if doubled else folder
        labels, facts = [HEADER], [FACTS]
        for i in range(48):
            image = f"ISIC_{i:07d}"
            write_image(folder / f"{image}.jpg", i)
            labels.append(f"{image},{one_hot(i // 2 % 8)}")
            lesion = f"{['BCN', 'HAM', 'MSK4'][i // 2 % 3]}_{i // 2:07d}" if i >= 4 else ""
            facts.append(f"{image},{(i % 18) * 5}.0,anterior torso,{lesion},{['male', 'female', ''][i % 3]}")
        (root / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(labels))
        (root / "ISIC_2019_Training_Metadata.csv").write_text("\n".join(facts))
        return root

    return write


def smooth(path: Path, seed: int) -> Path:
    """An image in which a perceptual hash sees the same after it was written at another quality."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC).save(path, quality=98)
    return path


@pytest.fixture
def add_test(write_image) -> Callable[[Path], None]:
    """Six images, one of them of no known class."""

    def write(root: Path) -> None:
        rows = [f"{HEADER},score_weight,validation_weight"]
        for i in range(6):
            image = f"ISIC_{1000 + i:07d}"
            write_image(root / "ISIC_2019_Test_Input" / f"{image}.jpg", 1000 + i)
            rows.append(f"{image},{one_hot(8 if i == 2 else i)},1.0,0.0")
        (root / "ISIC_2019_Test_GroundTruth.csv").write_text("\n".join(rows))

    return write


@pytest.mark.parametrize("doubled", [True, False])
def test_labels_groups_and_attributes(make, cache: Path, doubled: bool) -> None:
    manifest = of(make(doubled), cache)
    assert (manifest.task, manifest.metric, manifest.policy) == ("classification", "balanced_accuracy", "dermoscopy")
    assert manifest.classes == CLASSES and len(manifest) == 48 and set(manifest.official.tolist()) == {""}
    assert manifest.labels.tolist() == [i // 2 % 8 for i in range(48)]
    assert all(path.count("/") == 1 + doubled for path in manifest.paths.tolist())
    assert manifest.groups[:4].tolist() == manifest.contents[:4].tolist(), "each without a lesion is by itself"
    assert manifest.groups[4] == manifest.groups[5] != manifest.groups[6]
    attributes = {name: values[[0, 4, 6, 8]].tolist() for name, values in manifest.attributes.items()}
    assert attributes == {
        "source": ["", "MSK", "BCN", "HAM"],
        "sex": ["male", "female", "male", ""],
        "age": ["0-19", "20-39", "20-39", "40-59"],
        "site": ["anterior torso"] * 4,
    }
    assert any("4 images have no lesion_id" in note for note in manifest.notes)
    s = split(manifest, SplitConfig(test=0.25, validation=0.5))
    assert not set(manifest.groups[s.test]) & set(manifest.groups[np.union1d(s.train, s.validation)])


def test_both_layouts_have_the_same_digest(make, cache: Path) -> None:
    assert of(make(True, "a"), cache).digest() == of(make(False, "b"), cache).digest()


@pytest.mark.parametrize("where", ["file", "labels", "metadata"])
def test_downsampled_ids_are_matched_either_way(make, cache: Path, where: str) -> None:
    root = make()
    before = of(root, cache)
    if where == "file":
        folder = root / "ISIC_2019_Training_Input"
        (folder / "ISIC_0000007.jpg").rename(folder / "ISIC_0000007_downsampled.jpg")
    else:
        table = root / f"ISIC_2019_Training_{'GroundTruth' if where == 'labels' else 'Metadata'}.csv"
        table.write_text(table.read_text().replace("ISIC_0000007,", "ISIC_0000007_downsampled,"))
    after = of(root, cache)
    assert after.digest() == before.digest()
    for name, values in before.attributes.items():
        assert after.attributes[name].tolist() == values.tolist()


def test_images_that_look_alike_join_their_groups(make, cache: Path) -> None:
    root = make()
    folder = root / "ISIC_2019_Training_Input"
    for source, target in (("ISIC_0000000", "ISIC_0000001"), ("ISIC_0000020", "ISIC_0000002")):
        Image.open(smooth(folder / f"{source}.jpg", int(source[-2:]))).save(folder / f"{target}.jpg", quality=60)
    manifest = of(root, cache)
    groups = manifest.groups.tolist()
    assert groups[0] == groups[1] and groups[20] == groups[21] == groups[2] != groups[3]
    assert any("4 images look like another one" in note for note in manifest.notes)
    assert any("2 of these images look like one with another label" in note for note in manifest.notes)
    alone = of(root, cache, near_duplicates="ignore").groups.tolist()
    assert alone[0] != alone[1] and alone[20] != alone[2]


def test_the_official_test(make, add_test, cache: Path) -> None:
    root = make()
    add_test(root)
    assert len(of(root, cache)) == 48, "by default the test is ours"
    manifest = of(root, cache, test="official")
    assert [manifest.official.tolist().count(part) for part in ("train", "test")] == [48, 5]
    assert manifest.labels[manifest.official == "test"].tolist() == [0, 1, 3, 4, 5]
    (caveat,) = manifest.caveats
    assert "1 images of class UNK are left out" in caveat and "its 5 images" in caveat and "too narrow" in caveat
    assert of(root, cache).caveats == (), "our own test has lesions"
    s = split(manifest, SplitConfig(validation=0.5))
    assert manifest.official[s.test].tolist() == ["test"] * 5 and len(s.validation) == 24


def test_training_images_of_the_official_test_are_left_out(make, add_test, cache: Path) -> None:
    root = make()
    add_test(root)
    training, test = root / "ISIC_2019_Training_Input", root / "ISIC_2019_Test_Input"
    shutil.copy(training / "ISIC_0000001.jpg", test / "ISIC_0001000.jpg")
    Image.open(smooth(training / "ISIC_0000020.jpg", 20)).save(test / "ISIC_0001001.jpg", quality=60)
    manifest = of(root, cache, test="official")
    left = {path[-11:-4] for path in manifest.paths.tolist()}
    assert not left & {"0000001", "0000020", "0000021"}, "with the whole lesion"
    assert manifest.official.tolist().count("test") == 5 and "0000000" in left
    assert any("3 training images are, or look like, images of the official test" in n for n in manifest.notes)
    split(manifest, SplitConfig(validation=0.5))


def test_images_in_no_table_are_counted(make, cache: Path, write_image) -> None:
    root = make()
    write_image(root / "ISIC_2019_Training_Input" / "ISIC_9999999.jpg", 1)
    assert any("1 images in ISIC_2019_Training_Input/ stand in no table" in note for note in of(root, cache).notes)


def test_every_defect_in_one_run(make, cache: Path, tmp_path: Path, write_image) -> None:
    root = make()
    folder = root / "ISIC_2019_Training_Input"
    (folder / "ISIC_0000040.jpg").unlink()
    (folder / "ISIC_0000041.jpg").unlink()
    (folder / "ISIC_0000041.jpg").symlink_to(write_image(tmp_path / "outside.jpg", 5))
    labels = root / "ISIC_2019_Training_GroundTruth.csv"
    lines = labels.read_text().split("\n")
    lines[2] = lines[2].replace("1.0", "0.0")  # row 3
    lines[3] = lines[3].replace("0.0", "1.0", 1)
    lines[4] = lines[4].replace("1.0", "2.0")
    lines[5] = lines[5].replace("0.0", "", 1)
    lines[6] = f"ISIC_0000005,{one_hot(8)}"
    lines[7] += ",0.0"
    lines[8] = lines[8].replace("ISIC_0000007", "")
    lines[9] = lines[9].replace("ISIC_0000008", "../../outside")
    lines[10] = lines[10].replace("0.0", "yes", 1)
    lines += [lines[1], f"ISIC_0000047_downsampled,{one_hot(7)}"]  # rows 50 and 51
    labels.write_text("﻿" + "\r\n".join(lines), encoding="utf-8")
    facts = root / "ISIC_2019_Training_Metadata.csv"
    lines = facts.read_text().replace("lesion_id", "lesion").split("\n")
    lines[12] = "ISIC_0000011,old,head/neck,x,male"
    lines[13] = "ISIC_0000012,50,head/neck,x,m"
    lines[14] = lines[12]
    lines[15] = ",50,head/neck,x,male"
    lines.append("too,short")
    facts.write_text("\n".join(lines))
    found = sentences(root, cache)
    labels_, facts_ = "isic2019: ISIC_2019_Training_GroundTruth.csv", "isic2019: ISIC_2019_Training_Metadata.csv"
    expected = (
        f"{labels_} row 3: expected one class with a 1, found none.",
        f"{labels_} row 4: expected one class with a 1, found MEL, NV.",
        f'{labels_} row 5: NV is "2.0", expected 0 or 1.',
        f"{labels_} row 6: MEL is empty, expected 0 or 1.",
        f"{labels_} row 7: the class is UNK, expected one of MEL, NV,",
        f"{labels_} row 8: expected 10 cells as in the header, found 11.",
        f"{labels_} row 9: image is empty,",
        f'{labels_} row 10: "ISIC_2019_Training_Input/../../outside.jpg" leaves the dataset\'s root',
        f'{labels_} row 11: MEL is "yes"',
        f'{labels_} row 42: "ISIC_2019_Training_Input/ISIC_0000040.jpg" no such file',
        f'{labels_} row 43: "ISIC_2019_Training_Input/ISIC_0000041.jpg" is a link that leaves',
        f'{labels_} row 50: "ISIC_2019_Training_Input/ISIC_0000000.jpg" stands in row 2 already',
        f'{labels_} row 51: "ISIC_2019_Training_Input/ISIC_0000047.jpg" stands in row 49 already',
        f'{labels_} row 15: "ISIC_0000013" has no row in ISIC_2019_Training_Metadata.csv',
        f'{labels_} row 16: "ISIC_0000014" has no row',
        f'{facts_}: column "lesion_id" is missing. Did you mean "lesion"?',
        f'{facts_} row 13: age_approx is "old", expected years from 0 to 120 or none.',
        f'{facts_} row 14: sex is "m", expected female, male or none.',
        f'{facts_} row 15: image "ISIC_0000011" stands in row 13 already',
        f"{facts_} row 16: image is empty,",
        f"{facts_} row 50: expected 5 cells as in the header, found 2.",
    )
    for part in expected:
        assert sum(part in sentence for sentence in found) == 1, (part, found)
    assert len(found) == len(expected)


def test_what_lacks(make, add_test, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "none" / "images").mkdir(parents=True)
    assert "expected ISIC_2019_Training_GroundTruth.csv" in sentences(tmp_path / "none", cache)[0]
    root = make()
    (sentence,) = sentences(root, cache, test="official")
    assert "ISIC_2019_Test_GroundTruth.csv: no such file" in sentence
    (root / "ISIC_2019_Training_Metadata.csv").unlink()
    found = sentences(root, cache)
    assert found == ("isic2019: ISIC_2019_Training_Metadata.csv: no such file under the dataset's root.",)
