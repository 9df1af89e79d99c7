"""A good and a spoiled copy of each dataset, looked at by `medtune check`: all that is wrong comes in one run.

Kinds of defects, each in one run with all others of its reader: folder 20, csv 22, aptos2019 21, cbis_ddsm 20,
isic2019 23, chexpert 24. What only a split can show (leaks between official parts, classes that a part lacks) needs
tables that are right, and has a test of its own.
"""

from __future__ import annotations

import csv
import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from search.check import check, describe
from search.console import Console
from search.plan import plan
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from tests.trainables.data.readers import test_cbis_ddsm as cbis
from trainables.data.readers.chexpert import FIVE, FOURTEEN
from trainables.data.readers.isic2019 import CLASSES

Write = Callable[..., Path]
Defects = dict[str, str]
"""Kinds of defects, and what is said of each, as a regular expression."""
Rows = list[list[str]]


def rows_of(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file))


def table(path: Path, rows: Rows, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)


def bomb(path: Path) -> None:
    """A PNG of a hundred bytes that says it has 400 million pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    data = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def page(path: Path) -> None:
    path.write_text("<html><body>404 Not Found</body></html>")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def scrambled(path: Path) -> None:
    """Pixels that were overwritten."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    at = data.index(b"IDAT") + 8
    data[at : at + 400] = bytes(400)
    path.write_bytes(data)


def fractions(path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(path, "TIFF")


def two_pages(path: Path) -> None:
    frame = Image.new("L", (8, 8))
    frame.save(path, "TIFF", save_all=True, append_images=[frame])


def lab(path: Path) -> None:
    Image.new("LAB", (8, 8)).save(path, "TIFF")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated image": (cut, "truncated"),
    "empty file": (nothing, "not an image in one of the formats"),
    "HTML in an image's place": (page, "not an image in one of the formats"),
    "decompression bomb": (bomb, ".*more than the 100 million"),
    "overwritten image": (scrambled, "damaged, can't be decoded"),
    "float image": (fractions, "floating-point values"),
    "several images in a file": (two_pages, "holds 2 images"),
    "unknown colour mode": (lab, "colour mode LAB"),
}


def damage(root: Path, files: list[Path]) -> Defects:
    """A kind of damage each; formats are known by their contents, whatever a file is called."""
    for (spoil, _), file in zip(DAMAGE.values(), files, strict=True):
        spoil(file)
    return {
        kind: f"{relative(root, file)}: {said}" for (kind, (_, said)), file in zip(DAMAGE.items(), files, strict=True)
    }


def relative(root: Path, file: Path) -> str:
    return re.escape(file.relative_to(root).as_posix())


def other_bytes(data: bytes) -> bytes:
    """The same pixels in another file."""
    if data.startswith(b"\xff\xd8"):
        return data[:2] + b"\xff\xfe\x00\x03x" + data[2:]  # a JPEG's comment
    file = io.BytesIO()
    if data[128:132] == b"DICM":
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.StudyDescription = "again"
        dataset.save_as(file)
    else:
        Image.open(io.BytesIO(data)).save(file, "PNG", compress_level=1)
    assert file.getvalue() != data
    return file.getvalue()


def repeat(root: Path, alike: tuple[Path, Path], differing: tuple[Path, Path], near: tuple[Path, Path]) -> Defects:
    """Images that stand there twice: pairs of one label, of two, and of one picture in two files."""
    for first, second in (alike, differing):
        second.write_bytes(first.read_bytes())
    near[1].write_bytes(other_bytes(near[0].read_bytes()))

    def both(pair: tuple[Path, Path]) -> str:
        return f"(?=.*{relative(root, pair[0])})(?=.*{relative(root, pair[1])})"

    return {
        "copies of one label": f"one image, several times: {both(alike)}",
        "copies of different labels": f"one image, labelled differently: {both(differing)}",
        "near-duplicates": f"look alike: {both(near)}",
    }


def frames(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames, dataset.PixelData = 2, 2 * dataset.PixelData
    dataset.save_as(path)


def rowless(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    del dataset.Rows
    dataset.save_as(path)


def without_pixels(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)


def other_colours(path: Path) -> None:
    """Values of a colour space that isn't known."""
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "CMYK"
    dataset.save_as(path)


DICOM_DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated DICOM": (cut, "truncated"),
    "DICOM of several frames": (frames, "holds 2 frames"),
    "DICOM without a size": (rowless, "its header lacks Rows"),
    "DICOM without pixels": (without_pixels, "truncated, or without pixels"),
    "DICOM of unknown colours": (other_colours, "CMYK of 1 samples"),
}


# Each dataset: a good copy, its options, and what spoils it, with what is then said.


def good_folder(root: Path, write: Write) -> dict[str, Any]:
    for index in range(40):
        write(root / "ab"[index % 2] / f"{index:02d}.png", index)
    return {}


def spoil_folder(root: Path, write: Write) -> Defects:
    outside = write(root.parent / "outside.png", 1000)
    write(root / "stray.png", 1001)
    (root / "c").mkdir()
    (root / "a" / "notes.txt").write_text("to do")
    (root / "a" / "link.png").symlink_to(outside)
    (root / "b" / "more").symlink_to(root / "a")
    (root / "a" / os.fsdecode(b"\xff.png")).write_bytes((root / "a" / "38.png").read_bytes())
    found = damage(root, [root / "ab"[index % 2] / f"{index:02d}.png" for index in range(8)])
    for index, (name, (spoil, said)) in enumerate(list(DICOM_DAMAGE.items())[:3]):
        file = root / "a" / f"{index}.dcm"
        values = np.random.default_rng(index).integers(0, 256, (40, 40)).astype(np.uint8)
        file.write_bytes(cbis.dicom(values, "nobody", None))
        spoil(file)
        found[name] = f"a/{file.name}: {said}"
    images = {index: root / "ab"[index % 2] / f"{index:02d}.png" for index in range(40)}
    return {
        **found,
        **repeat(root, (images[10], images[12]), (images[14], images[15]), (images[16], images[18])),
        "image outside of a class": r"stray\.png: an image outside of any class folder",
        "class without images": r"c/: a class folder without images",
        "file that isn't an image": r"a/notes\.txt: not an image",
        "link that leaves the root": r"a/link\.png: is a link that leaves",
        "link to a folder": r"b/more: a link to a folder",
        "name that isn't UTF-8": r"a/.*ff\.png: has a name that isn't UTF-8",
    }


def good_csv(root: Path, write: Write) -> dict[str, Any]:
    rows = [["path", "label", "patient", "part"]]
    for index in range(60):
        write(root / f"{index:02d}.png", index)
        part = ("train", "train", "train", "valid", "test")[index % 5]
        rows.append([f"{index:02d}.png", "ab"[index // 5 % 2], f"p{index}", part])
    table(root / "labels.csv", rows, encoding="utf-8-sig")  # a byte order mark is no defect
    return {"table": "labels.csv", "group": "patient", "split": "part", "classes": ["a", "b"]}


def spoil_csv(root: Path, write: Write) -> Defects:
    rows = rows_of(root / "labels.csv")
    write(root.parent / "beside.png", 1000)
    rows[0][2] = "pateint"
    rows[2][0] = rows[1][0]
    rows[3][0] = ""
    rows[4][0] = "nowhere.png"
    rows[5][0] = "../beside.png"
    rows[6][0] = str(root.parent / "beside.png")
    rows[7][1] = "c"
    rows[8][1] = ""
    rows[9].append("one more")
    rows[10][3] = "holdout"
    rows[11][3] = ""
    table(root / "labels.csv", rows)
    images = [root / f"{index:02d}.png" for index in range(60)]
    return {
        **damage(root, images[30:38]),
        **repeat(root, (images[40], images[41]), (images[44], images[45]), (images[46], images[47])),
        "missing column": r'column "patient" is missing\. Did you mean "pateint"',
        "repeated path": r'row 3: "00\.png" stands in row 2 already',
        "empty path": r"row 4: path is empty",
        "missing file": r'row 5: "nowhere\.png" no such file',
        "path that leaves the root": r'row 6: "\.\./beside\.png" leaves the dataset\'s root',
        "absolute path": r'row 7: "/.*beside\.png" leaves the dataset\'s root',
        "unknown class": r'row 8: label is "c", expected one of the classes',
        "empty label": r"row 9: label is empty",
        "row of another length": r"row 10: expected 4 cells as in the header, found 5",
        "unknown split word": r'row 11: part is "holdout"',
        "empty split word": r"row 12: part is empty",
    }


def good_aptos(root: Path, write: Write) -> dict[str, Any]:
    rows = [["id_code", "diagnosis"]]
    for index in range(60):
        write(root / "train_images" / "train_images" / f"eye{index:02d}.png", index)
        rows.append([f"eye{index:02d}", str(index // 2 % 5)])
    table(root / "train.csv", rows)
    return {}


def spoil_aptos(root: Path, write: Write) -> Defects:
    rows = rows_of(root / "train.csv")
    rows[0].append("id_code")
    for row in rows[1:]:
        row.append("")
    rows[1][1], rows[2][1], rows[3][1] = "5", "", "mild"
    rows[10] = rows[10][:2]
    rows[4][0], rows[5][0], rows[6][0], rows[7][0] = rows[3][0], "", "nowhere", "../../../beside"
    table(root / "train.csv", rows)
    folder = root / "train_images" / "train_images"
    outside = write(root.parent / "beside.png", 1000)
    (folder / "eye07.png").unlink()
    (folder / "eye07.png").symlink_to(outside)
    images = [folder / f"eye{index:02d}.png" for index in range(60)]
    return {
        **damage(root, images[20:28]),
        **repeat(root, (images[40], images[41]), (images[43], images[44]), (images[46], images[47])),
        "repeated id": r'row 5: id_code "eye02" stands in row 4 already',
        "empty id": r"row 6: id_code is empty",
        "missing file": r'row 7: "train_images/train_images/nowhere\.png" no such file',
        "id that leaves the root": r'row 8: "train_images/train_images/\.\./.*beside\.png" leaves',
        "link that leaves the root": r'row 9: ".*eye07\.png" is a link that leaves',
        "repeated column": r'column "id_code" stands twice in the header',
        "grade out of range": r'row 2: diagnosis is "5", expected 0 to 4',
        "empty grade": r"row 3: diagnosis is empty",
        "grade in words": r'row 4: diagnosis is "mild"',
        "row of another length": r"row 11: expected 3 cells as in the header, found 2",
    }


LESIONS = [
    cbis.Row(kind, part, 10 * number + patient, side=side, pathology=["BENIGN", "MALIGNANT"][patient % 2])
    for number, (kind, part) in enumerate((k, p) for k in ("mass", "calc") for p in ("train", "test"))
    for patient in range(8 if part == "train" else 4)
    for side in ("LEFT", "RIGHT")
]


def good_cbis(root: Path, write: Write) -> dict[str, Any]:
    cbis.make(root, "DICOM", LESIONS)
    return {}


def spoil_cbis(root: Path, write: Write) -> Defects:
    mass, calc = (root / f"{kind}_case_description_train_set.csv" for kind in ("mass", "calc"))
    rows = rows_of(mass)
    rows[1][9], rows[2][9] = "UNKNOWN", ""
    rows[3][1] = "5"
    rows[4][2] = "LEFT" if rows[4][2] == "RIGHT" else "RIGHT"
    rows[5][11] = "somewhere/else.dcm"
    table(mass, rows)
    (root / "mass_case_description_test_set.csv").unlink()
    rows = rows_of(calc)
    rows[0][1] = "tissue"
    rows[1].append("one more")
    table(calc, rows)
    folders = sorted((root / "CBIS-DDSM").glob("Mass-Training_*_CC"))
    next(folders[6].rglob("*.dcm")).unlink()
    kinds = {**DICOM_DAMAGE, **{kind: DAMAGE[kind] for kind in list(DAMAGE)[1:4]}}
    found = {}
    for (kind, (spoil, said)), folder in zip(kinds.items(), folders[7:15], strict=True):
        spoil(file := next(folder.rglob("*.dcm")))
        found[kind] = f"{relative(root, file)}: {said}"
    whole = [next(folder.rglob("*.dcm")) for folder in sorted((root / "CBIS-DDSM").glob("Calc-Test_*_CC"))]
    return {
        **found,
        **repeat(root, (whole[0], whole[1]), (whole[4], whole[2]), (whole[6], whole[7])),
        "unknown pathology": r'row 2: pathology is "UNKNOWN"',
        "empty pathology": r"row 3: pathology is empty",
        "unknown density": r'row 4: density is "5"',
        "row whose path is of another image": r"row 5: image file path is of Mass-Training_.* but the row is of",
        "path of another form": r'row 6: image file path is "somewhere/else\.dcm"',
        "missing table": r"expected one mass_case_description_test_set\.csv under root, found none",
        "missing column": r'calc_case_description_train_set\.csv: column "breast_density" is missing',
        "missing mammogram": r"row 8: .*mammogram",
        "row of another length": r"calc_case_description_train_set\.csv row 2: expected 14 cells",
    }


def good_isic(root: Path, write: Write) -> dict[str, Any]:
    labels: Rows = [["image", *CLASSES, "UNK"]]
    facts: Rows = [["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]]
    for index in range(64):
        name = f"ISIC_{index:07d}"
        write(root / "ISIC_2019_Training_Input" / f"{name}.jpg", index, size=(40, 40))
        labels.append([name, *(["0.0", "1.0"][i == index // 2 % 8] for i in range(9))])
        facts.append([name, "45.0", "anterior torso", f"HAM_{index // 2:07d}", "female"])
    table(root / "ISIC_2019_Training_GroundTruth.csv", labels)
    table(root / "ISIC_2019_Training_Metadata.csv", facts)
    return {}


def spoil_isic(root: Path, write: Write) -> Defects:
    labels, facts = (root / f"ISIC_2019_Training_{name}.csv" for name in ("GroundTruth", "Metadata"))
    rows = rows_of(labels)
    rows[1][3] = "1.0"
    rows[2][1:] = ["0.0"] * 9
    rows[3][4] = "0.5"
    rows[4][1:] = ["0.0"] * 8 + ["1.0"]
    rows[6][0] = rows[5][0]
    rows[7][0] = "ISIC_9999999"
    table(labels, rows)
    rows = rows_of(facts)
    rows[10][1], rows[11][1] = "old", "450"
    rows[12][4] = "woman"
    rows[14][0] = rows[13][0]
    rows[15][0] = ""
    table(facts, rows)
    images = root / "ISIC_2019_Training_Input"
    files = [images / f"ISIC_{index:07d}.jpg" for index in range(64)]
    return {
        **damage(root, files[40:48]),
        **repeat(root, (files[50], files[51]), (files[52], files[54]), (files[56], files[57])),
        "two classes": r"row 2: expected one class with a 1, found MEL, BCC",
        "no class": r"row 3: expected one class with a 1, found none",
        "label between 0 and 1": r'row 4: AK is "0\.5", expected 0 or 1',
        "training image of no known class": r"row 5: the class is UNK",
        "repeated image": r'row 7: "ISIC_2019_Training_Input/ISIC_0000004\.jpg" stands in row 6 already',
        "missing file": r'row 8: ".*ISIC_9999999\.jpg" no such file',
        "age in words": r'row 11: age_approx is "old"',
        "age out of range": r'row 12: age_approx is "450"',
        "unknown sex": r'row 13: sex is "woman"',
        "repeated metadata": r'row 15: image "ISIC_0000012" stands in row 14 already',
        "empty id": r"row 16: image is empty",
        "image without metadata": r'"ISIC_0000014" has no row in ISIC_2019_Training_Metadata\.csv',
    }


def good_chexpert(root: Path, write: Write) -> dict[str, Any]:
    for part, patients in (("train", 30), ("valid", 6)):
        rows = [["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FOURTEEN]]
        for patient in range(patients):
            for study in (1, 2):
                relative = f"{part}/patient{patient + 1000 * (part == 'valid'):05d}/study{study}/view1_frontal.jpg"
                write(root / relative, 4 * patient + study + 500 * (part == "valid"), size=(40, 40), mode="L")
                labels = ["1.0" if (patient + i) % 2 else "0.0" for i in range(14)]
                rows.append([f"CheXpert-v1.0/{relative}", "Female", "50", "Frontal", "PA", *labels])
        table(root / f"{part}.csv", rows)
    return {}


def spoil_chexpert(root: Path, write: Write) -> Defects:
    rows = rows_of(root / "train.csv")
    finding = 5 + FOURTEEN.index(FIVE[0])
    rows[1][0] = "CheXpert-v1.0/train/view1_frontal.jpg"
    rows[2][0] = ""
    rows[4][0] = rows[3][0]
    rows[5][finding] = "2.0"
    rows[6][finding] = "yes"
    rows[7][1], rows[8][2] = "Woman", "-3"
    rows[9][3], rows[10][4] = "Front", "PQ"
    rows[11][0] = rows[11][0].replace("view1", "view7")
    other = [*rows[13]]
    other[0], other[finding] = other[0].replace("view1", "view2"), "0.0" if other[finding] == "1.0" else "1.0"
    write(root / other[0].removeprefix("CheXpert-v1.0/"), 999, size=(40, 40), mode="L")
    table(root / "train.csv", [*rows, other])
    rows = rows_of(root / "valid.csv")
    rows[0].remove("Sex")
    table(root / "valid.csv", rows)
    files = [
        root / f"train/patient{patient:05d}/study{study}/view1_frontal.jpg"
        for patient in range(10, 30)
        for study in (1, 2)
    ]
    return {
        **damage(root, files[:8]),
        **repeat(root, (files[10], files[11]), (files[12], files[14]), (files[16], files[17])),
        "path of another form": r'train\.csv row 2: Path is "CheXpert-v1\.0/train/view1_frontal\.jpg", expected',
        "empty path": r"train\.csv row 3: Path is empty",
        "repeated path": r'train\.csv row 5: "train/patient00001/study1/view1_frontal\.jpg" stands in row 4 already',
        "label out of range": r'train\.csv row 6: Atelectasis is "2\.0", expected 1, 0, -1 or nothing',
        "label in words": r'train\.csv row 7: Atelectasis is "yes"',
        "unknown sex": r'train\.csv row 8: Sex is "Woman"',
        "age out of range": r'train\.csv row 9: Age is "-3"',
        "unknown view": r'train\.csv row 10: Frontal/Lateral is "Front"',
        "unknown projection": r'train\.csv row 11: AP/PA is "PQ"',
        "missing file": r'train\.csv row 12: ".*view7_frontal\.jpg" no such file',
        "study whose rows differ": r"train\.csv row 62: other labels than in row 14",
        "missing column": r'valid\.csv: column "Sex" is missing',
        "row of another length": r"valid\.csv row 2: expected 18 cells as in the header, found 19",
    }


KINDS = {"folder": 20, "csv": 22, "aptos2019": 21, "cbis_ddsm": 20, "isic2019": 23, "chexpert": 24}
DATASETS: dict[str, tuple[Callable[[Path, Write], dict[str, Any]], Callable[[Path, Write], Defects]]] = {
    "folder": (good_folder, spoil_folder),
    "csv": (good_csv, spoil_csv),
    "aptos2019": (good_aptos, spoil_aptos),
    "cbis_ddsm": (good_cbis, spoil_cbis),
    "isic2019": (good_isic, spoil_isic),
    "chexpert": (good_chexpert, spoil_chexpert),
}


def settings(reader: str, root: Path, options: dict[str, Any], **split: Any) -> SearchConfig:
    data = {"reader": reader, "root": str(root), "options": options, "split": split}
    base = {"name": "s", "backbones": ["mae_tiny"], "weights": "random", "mlflow": "off", "dataset": data}
    own = {"space": {"resolution": 32, "trained_blocks": 0}, "storage": str(root.parent / "runs")}
    return SearchConfig.parse({**base, **own}, "s")


def told(config: SearchConfig) -> list[str]:
    """Without what trials cost, which is measured once nothing is wrong."""
    planned = plan(config, Path("nowhere"), thorough=True)
    return [line for line in describe(planned, Path(config.storage) / "check.txt", None) if isinstance(line, str)]


def refused(config: SearchConfig) -> Mistake:
    with pytest.raises(Mistake) as caught:
        check(config, Path("nowhere"), Console(io.StringIO()))
    return caught.value


@pytest.mark.parametrize("reader", DATASETS)
def test_a_good_copy_is_in_order_and_a_spoiled_one_is_told_whole(
    reader: str, tmp_path: Path, write_image: Write
) -> None:
    good, spoil = DATASETS[reader]
    root = tmp_path / "data"
    config = settings(reader, root, good(root, write_image))
    assert told(config)[-1] == "Everything is in order."
    defects = spoil(root, write_image)
    full = refused(config).full
    for kind, said in defects.items():
        assert any(re.search(said, sentence) for sentence in full), (kind, full)
    assert not any("Traceback" in sentence for sentence in full)
    assert len(defects) == KINDS[reader]


def test_what_the_split_alone_can_know(tmp_path: Path, write_image: Write) -> None:
    """It is known where the tables are right; damaged images are told with it."""
    root = tmp_path / "data"
    config = settings("csv", root, good_csv(root, write_image))
    whole = rows_of(root / "labels.csv")
    rows = [[*row] for row in whole]
    rows[4][2] = rows[1][2]  # a training patient in validation
    (root / "10.png").write_bytes((root / "04.png").read_bytes())  # a test image in training, byte for byte
    cut(root / "30.png")
    table(root / "labels.csv", rows)
    full = refused(config).full
    for said in (
        r"1 groups stand in more than one part of the official split \(1 in train, 1 in validation, 0 in test",
        r"1 identical images stand in more than one part of the official split \(1 in train, 0 in validation, 1 in te",
        r"30\.png: truncated",
    ):
        assert any(re.search(said, sentence) for sentence in full), full
    write_image(root / "10.png", 10)
    table(root / "labels.csv", [row for row in whole if row[1] != "b" or row[3] != "train"])
    full = refused(config).full
    assert any('class "b" has no training images (6 in validation, 6 in test)' in s for s in full), full


def test_conflicting_copies(tmp_path: Path, write_image: Write) -> None:
    root = tmp_path / "data"
    config = settings("aptos2019", root, {**good_aptos(root, write_image), "conflicts": "refuse"})
    images = root / "train_images" / "train_images"
    (images / "eye00.png").write_bytes((images / "eye05.png").read_bytes())
    page(images / "eye30.png")
    full = refused(config).full
    assert any("the same image has different grades" in s and "eye05.png (grade 2)" in s for s in full)
    assert any("eye30.png: not an image" in s for s in full)


def test_damage_in_the_test_is_found_and_no_pixels_are_kept(tmp_path: Path, write_image: Write) -> None:
    root = tmp_path / "data"
    config = settings("csv", root, good_csv(root, write_image))
    tested = [row[0] for row in rows_of(root / "labels.csv") if row[3] == "test"]
    for name in (tested[0], tested[5]):
        cut(root / name)
    full = refused(config).full
    assert full[0].startswith("dataset: 2 of the 60 images can't be used")
    assert all(any(s.startswith(f"{name}: truncated") for s in full) for name in (tested[0], tested[5]))
    assert not list((tmp_path / "runs").rglob("pixels*")), "check looks, and keeps nothing"
    with pytest.raises(Mistake) as raised:  # nor does a search begin, though trials don't need the test's images
        plan(config, tmp_path)
    assert {s.split(":")[0] for s in raised.value.full[1:]} == {tested[0], tested[5]}


def test_one_bad_file_or_an_official_leak_hides_nothing_of_the_others(tmp_path: Path, write_image: Write) -> None:
    root = tmp_path / "data"
    config = settings("csv", root, good_csv(root, write_image))
    images = [root / f"{index:02d}.png" for index in range(60)]
    cut(images[30])
    found = repeat(root, (images[40], images[42]), (images[45], images[50]), (images[47], images[46]))
    full = refused(config).full
    for kind, said in {**found, "bad": r"30\.png: truncated"}.items():
        assert any(re.search(said, sentence) for sentence in full), (kind, full)
    page(images[31])
    images[4].write_bytes(images[0].read_bytes())  # a test image is one of training
    full = refused(config).full
    leak = "1 identical images stand in more than one part of the official split"
    for kind, said in {**found, "leak": leak, "page": r"31\.png: not an image"}.items():
        assert any(re.search(said, sentence) for sentence in full), (kind, full)


def test_what_was_left_out_for_its_grades_is_named(tmp_path: Path, write_image: Write) -> None:
    root = tmp_path / "data"
    config = settings("aptos2019", root, good_aptos(root, write_image))
    images = root / "train_images" / "train_images"
    for index in range(16):
        (images / f"eye{59 - 2 * index}.png").write_bytes((images / f"eye{index:02d}.png").read_bytes())
    lines = told(config)
    at = next(i for i, line in enumerate(lines) if "were left out, since their copies are labelled differently" in line)
    pairs = lines[at + 1 : at + 11]
    assert (
        all("eye" in line for line in pairs)
        and "eye00.png (no DR), " in pairs[0]
        and "eye59.png (proliferative)" in pairs[0]
    )
    left_out = int(lines[at].split()[0])
    assert f"  and {left_out - 10} more" in lines and left_out > 10
    kept = (tmp_path / "runs" / "check.txt").read_text()
    assert sum("(" in line and "eye" in line for line in kept.splitlines()) == left_out
    assert any(f"{left_out} contents stand under different grades" in line for line in lines)
    page(images / "eye30.png")
    full = refused(config).full
    assert sum("one image, labelled differently and left out: " in sentence for sentence in full) == left_out
