from __future__ import annotations

import csv
import io
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from spaces.config import DatasetConfig, SplitConfig
from spaces.mistakes import Mistake
from trainables.data.images import open_image
from trainables.data.manifest import Manifest
from trainables.data.pixels import PixelSpec, decode_file, open_pixels
from trainables.data.readers import cbis_ddsm_files, read
from trainables.data.splits import split

WORDS = {"mass": "Mass", "calc": "Calc", "train": "Training", "test": "Test"}
DESCRIPTIONS = {"mammogram": "full mammogram images", "crop": "cropped images", "mask": "ROI mask images"}
COLUMNS = {
    "mass": "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,"
    "mass margins,assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path",
    "calc": "patient_id,breast density,left or right breast,image view,abnormality id,abnormality type,calc type,"
    "calc distribution,assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path",
}
Copy = Literal["DICOM", "JPEG"]


@dataclass(frozen=True)
class Row:
    """A lesion of a table."""

    kind: str
    part: str
    patient: int
    side: str = "LEFT"
    view: str = "CC"
    pathology: str = "BENIGN"
    number: int = 1
    density: str = "2"
    assessment: str = "4"
    description: bool = True
    """Whether the SeriesDescription of crop and mask is given."""

    @property
    def case(self) -> str:
        return f"{WORDS[self.kind]}-{WORDS[self.part]}_P_{self.patient:05d}_{self.side}_{self.view}"

    def series(self, kind: str) -> str:
        return f"1.3.6.1.4.{len(self.case)}.{abs(hash_of(self.case, self.number if kind != 'mammogram' else 0, kind))}"


def hash_of(*parts: object) -> int:
    return int.from_bytes(repr(parts).encode()[-60:], "big") % 10**12


# Four breasts with several lesions and views, one of them malignant in the other kind's table only; a patient in two
# official parts; densities and assessments of 0.
ROWS = [
    Row("mass", "train", 1, view="CC", density="0", assessment="0"),
    Row("mass", "train", 1, view="CC", number=2, pathology="MALIGNANT", density="3"),
    Row("mass", "train", 1, view="MLO", density="3"),
    Row("mass", "train", 2, side="RIGHT", pathology="BENIGN_WITHOUT_CALLBACK", density="0"),
    Row("calc", "train", 2, side="RIGHT", pathology="MALIGNANT"),
    Row("calc", "train", 2, side="LEFT"),
    Row("mass", "test", 3),
    Row("calc", "train", 3, side="RIGHT", view="MLO", pathology="MALIGNANT"),
    Row("calc", "test", 4, pathology="MALIGNANT"),
    Row("mass", "train", 5, pathology="MALIGNANT", description=False),
]
SIZES = {"mammogram": (48, 40), "crop": (12, 10), "mask": (48, 40)}


def pixels(row: Row, kind: str) -> np.ndarray:
    height, width = SIZES[kind]
    if kind == "mask":
        image = Image.new("L", (width, height))
        ImageDraw.Draw(image).ellipse((10, 10, 22, 26), fill=255)
        return np.asarray(image)
    seed = hash_of(row.case, row.number if kind == "crop" else 0, kind)
    return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)


def dicom(values: np.ndarray, case: str, description: str | None) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalMammographyXRayImageStorageForPresentation, "1.2.3"
    dataset.PatientID = case
    if description is not None:
        dataset.SeriesDescription = description
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = (values.astype(np.uint16) * 257).tobytes()
    dataset["PixelData"].VR = "OW"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def images_of(row: Row) -> list[tuple[str, str, str]]:
    """Kind, PatientID and series of each image of a row."""
    lesion = f"{row.case}_{row.number}"
    return [(kind, row.case if kind == "mammogram" else lesion, row.series(kind)) for kind in DESCRIPTIONS]


def write_tables(folder: Path, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, columns in COLUMNS.items():
        for part in ("train", "test"):
            with (folder / f"{kind}_case_description_{part}_set.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(columns.split(","))
                for row in (r for r in rows if (r.kind, r.part) == (kind, part)):
                    # As the real ones: a study between, a name that no download has, and a line break in the quotes.
                    paths = [
                        f"{case}/1.3.6.99/{series}/00000{i}.dcm" for i, (_, case, series) in enumerate(images_of(row))
                    ]
                    paths = [paths[0].replace("/1.3.6.99", "\n/1.3.6.99"), paths[1] + "\n", paths[2] + "\n"]
                    if kind == "calc":  # crop and mask are numbered, and named, the other way round
                        paths[1:] = [paths[2], paths[1]]
                    start = [f"P_{row.patient:05d}", row.density, row.side, row.view, row.number]
                    middle = ["mass" if kind == "mass" else "calcification", "x", "y", row.assessment, row.pathology, 3]
                    writer.writerow([*start, *middle, *paths])


def make(root: Path, copy: Copy, rows: list[Row] = ROWS, doubled: bool = False) -> Path:
    """A copy of the dataset with every image of the rows."""
    info: list[list[str]] = []
    written: set[str] = set()
    for row in rows:
        for kind, case, series in images_of(row):
            if series in written:
                continue
            written.add(series)
            described = DESCRIPTIONS[kind] if row.description or kind == "mammogram" else None
            if copy == "DICOM":
                folder = root / ("CBIS-DDSM/CBIS-DDSM" if doubled else "CBIS-DDSM") / case
                folder = (folder / case if doubled else folder) / "1.3.6.99" / series
                folder.mkdir(parents=True)
                (folder / "1-1.dcm").write_bytes(dicom(pixels(row, kind), case, described))
            else:
                number = 100 + len(written)
                folder = root / ("jpeg/jpeg" if doubled else "jpeg") / series
                folder.mkdir(parents=True)
                Image.fromarray(pixels(row, kind)).save(folder / f"1-{number}.jpg", quality=90)
                info.append([f"CBIS-DDSM/jpeg/{series}/1-{number}.jpg", case, described or "", series])
    tables = root if copy == "DICOM" else root / ("csv/csv" if doubled else "csv")
    write_tables(tables, rows)
    if copy == "JPEG":
        with (tables / "dicom_info.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["image_path", "PatientID", "SeriesDescription", "SeriesInstanceUID"], *info])
        (tables / "meta.csv").write_text("SeriesInstanceUID\n")
    return root


def of(root: Path, cache: Path, **options: str) -> Manifest:
    return read(DatasetConfig(reader="cbis_ddsm", root=str(root), options=options), cache, None)


def sentences(root: Path, cache: Path, **options: str) -> tuple[str, ...]:
    with pytest.raises(Mistake) as mistake:
        of(root, cache, **options)
    return mistake.value.sentences


@pytest.fixture(params=[("DICOM", False), ("DICOM", True), ("JPEG", False), ("JPEG", True)], ids=str)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    copy, doubled = request.param
    return make(tmp_path / "data", copy, doubled=doubled)


def row_of(manifest: Manifest, row: Row, kind: str = "mammogram") -> int:
    (found,) = (i for i, path in enumerate(manifest.paths.tolist()) if f"/{row.series(kind)}/" in path)
    return found


def test_whole_images_of_both_kinds(layout: Path, cache: Path) -> None:
    manifest = of(layout, cache)
    assert len(manifest) == 9, "ten lesions on nine mammograms"
    assert (manifest.classes, manifest.metric, manifest.policy) == (
        ("benign", "malignant"),
        "macro_auroc",
        "mammography",
    )
    assert (manifest.crop, manifest.combine, manifest.task) == ("breast", "mean", "classification")
    expected = {  # row: label, truth, part
        0: (1, 1, "train"),  # the second lesion of its image is malignant
        2: (0, 1, "train"),  # the other view of that breast
        3: (1, 1, "train"),  # the same mammogram as the next one
        4: (1, 1, "train"),
        5: (0, 0, "train"),
        6: (0, 0, "test"),
        7: (1, 1, "test"),  # moved, because of the one before
        8: (1, 1, "test"),
        9: (1, 1, "train"),
    }
    for index, (label, truth, part) in expected.items():
        i = row_of(manifest, ROWS[index])
        assert (manifest.labels[i], manifest.truth[i], manifest.official[i]) == (label, truth, part), ROWS[index]
        assert manifest.groups[i] == f"P_{ROWS[index].patient:05d}"
        assert manifest.units[i] == f"P_{ROWS[index].patient:05d} {ROWS[index].side}"
        assert manifest.attributes["view"][i] == ROWS[index].view
        assert manifest.attributes["abnormality"][i] == ROWS[index].kind
    densities = [str(manifest.attributes["density"][row_of(manifest, ROWS[i])]) for i in (0, 3, 4)]
    assert densities == ["3", "", "2"], "0 isn't known"
    assert manifest.paths.tolist() == sorted(manifest.paths.tolist())
    (twice,), (moved,) = manifest.notes, manifest.caveats
    assert moved.startswith("cbis_ddsm: 1 training images of 1 patients were moved to the test")
    assert twice.startswith("cbis_ddsm: 1 mammograms are there twice")
    parts = split(manifest, SplitConfig(validation=0.5))
    assert set(manifest.groups[parts.test].tolist()) == {"P_00003", "P_00004"}


def test_the_images_are_the_right_ones(layout: Path, cache: Path) -> None:
    whole, crops = of(layout, cache), of(layout, cache, image="crop")
    for manifest, kind in ((whole, "mammogram"), (crops, "crop")):
        for row in ROWS:
            i = row_of(manifest, row, kind)
            found = np.asarray(open_image(manifest.root / manifest.paths[i]), dtype=int)
            golden = pixels(row, kind)
            assert found.shape == golden.shape and abs(found - golden).mean() < 12, "85 between others, some by JPEG"


def test_crops(layout: Path, cache: Path) -> None:
    manifest = of(layout, cache, image="crop")
    assert len(manifest) == 10 and manifest.crop == "none"
    for row in ROWS:
        i = row_of(manifest, row, "crop")
        assert manifest.labels[i] == (row.pathology == "MALIGNANT")
    assert manifest.truth[row_of(manifest, ROWS[0], "crop")] == 1, "of the breast"
    assert manifest.notes == () and "moved to the test" in manifest.caveats[0]


def test_a_breast_malignant_only_in_the_other_table(layout: Path, cache: Path) -> None:
    manifest = of(layout, cache, abnormality="mass")
    assert set(manifest.attributes["abnormality"].tolist()) == {"mass"} and len(manifest) == 5
    i = row_of(manifest, ROWS[3])
    assert (manifest.labels[i], manifest.truth[i]) == (0, 1)
    assert manifest.notes == manifest.caveats == (), "the split of one kind is clean"
    calc = of(layout, cache, abnormality="calc")
    assert set(calc.attributes["abnormality"].tolist()) == {"calc"} and len(calc) == 4
    assert calc.official[row_of(calc, ROWS[7])] == "train"


def test_the_layout_changes_nothing_but_paths(tmp_path: Path, cache: Path) -> None:
    for copy in ("DICOM", "JPEG"):
        plain, doubled = (of(make(tmp_path / f"{copy}{d}", copy, doubled=d), cache) for d in (False, True))
        assert plain.digest() == doubled.digest()


@pytest.mark.parametrize("copy", ["DICOM", "JPEG"])
def test_crop_and_mask_without_descriptions_are_told_apart_by_their_pixels(
    tmp_path: Path, cache: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [replace(row, description=False) for row in ROWS]
    described = of(make(tmp_path / "described", copy), cache, image="crop")
    looked: list[Path] = []
    real = cbis_ddsm_files.is_mask
    monkeypatch.setattr(cbis_ddsm_files, "is_mask", lambda path: looked.append(path) or real(path))
    plain = of(make(tmp_path / "plain", copy, rows), cache, image="crop")
    assert plain.paths.tolist() == described.paths.tolist() and plain.labels.tolist() == described.labels.tolist()
    assert len(looked) == len(rows), "the smaller one of each two"
    monkeypatch.setitem(SIZES, "mask", SIZES["crop"])
    same = of(make(tmp_path / "same", copy, rows), cache, image="crop")
    assert same.paths.tolist() == described.paths.tolist() and len(looked) == 3 * len(rows)


def test_described_images_are_not_opened(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "data", "JPEG", [replace(row, description=True) for row in ROWS])

    def never(*_: object) -> None:
        raise AssertionError("an image was opened")

    for name in ("open_image", "read_header", "is_mask"):
        monkeypatch.setattr(cbis_ddsm_files, name, never)
    assert len(of(root, cache, image="crop")) == 10 and len(of(root, cache)) == 9


@pytest.mark.parametrize("copy", ["DICOM", "JPEG"])
def test_both_described_as_masks(tmp_path: Path, cache: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where crop and mask lie in one series."""
    monkeypatch.setitem(DESCRIPTIONS, "crop", "ROI mask images")
    manifest = of(make(tmp_path / "data", copy), cache, image="crop")
    assert all(f"/{row.series('crop')}/" in " ".join(manifest.paths.tolist()) for row in ROWS)


def test_one_folder_of_a_lesion_with_crop_and_mask(tmp_path: Path, cache: Path) -> None:
    root = make(tmp_path / "data", "DICOM", [replace(row, description=False) for row in ROWS])
    for row in ROWS:
        folder = root / "CBIS-DDSM" / f"{row.case}_{row.number}" / "1.3.6.99"
        (folder / row.series("crop") / "1-1.dcm").rename(folder / row.series("mask") / "1-2.dcm")
    manifest = of(root, cache, image="crop")
    assert len(manifest) == 10 and all(path.endswith("1-2.dcm") for path in manifest.paths.tolist())


def test_a_lesion_with_a_mask_only(tmp_path: Path, cache: Path) -> None:
    root = make(tmp_path / "data", "DICOM")
    shutil.rmtree(root / "CBIS-DDSM" / f"{ROWS[9].case}_1" / "1.3.6.99" / ROWS[9].series("crop"))
    shutil.rmtree(root / "CBIS-DDSM" / f"{ROWS[0].case}_1" / "1.3.6.99" / ROWS[0].series("crop"))
    found = sentences(root, cache, image="crop")
    for row, name, line in ((ROWS[0], "mass", 2), (ROWS[9], "mass", 6)):
        expected = (
            f"{name}_case_description_train_set.csv row {line}: expected one crop that isn't a mask of {row.case}_1"
        )
        assert sum(expected in sentence for sentence in found) == 1, found
    assert len(found) == 2


def test_dicom_becomes_pixels(tmp_path: Path, cache: Path) -> None:
    manifest = of(make(tmp_path / "data", "DICOM"), cache)
    spec = PixelSpec(height=32, width=24, crop=manifest.crop, side="left")
    opened = open_pixels(manifest, spec, cache)
    assert opened.array.shape == (9, 1, 32, 24)
    np.testing.assert_array_equal(opened.array[3], decode_file(manifest.root / manifest.paths[3], spec))


def test_everything_wrong_is_told_together(tmp_path: Path, cache: Path) -> None:
    root = make(tmp_path / "data", "JPEG")
    shutil.rmtree(root / "jpeg" / ROWS[5].series("mammogram"))
    table = root / "csv" / "mass_case_description_train_set.csv"
    rows = list(csv.reader(io.StringIO(table.read_text())))
    rows[1][9] = "MALIGN"
    rows[2][1] = "7"
    rows[3][0] = "P_99999"
    rows[4][11] = "somewhere/else.dcm"
    rows[5] = rows[5][:-1]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (root / "csv" / "calc_case_description_test_set.csv").unlink()
    text = (root / "csv" / "dicom_info.csv").read_text().splitlines()
    (root / "csv" / "dicom_info.csv").write_text("\n".join(line for line in text if ROWS[6].case + "," not in line))
    found = sentences(root, cache)
    train = "cbis_ddsm: csv/mass_case_description_train_set.csv"
    for part in (
        f'{train} row 2: pathology is "MALIGN", expected one of BENIGN, BENIGN_WITHOUT_CALLBACK, MALIGNANT.',
        f'{train} row 3: density is "7", expected one of 0, 1, 2, 3, 4.',
        f"{train} row 4: image file path is of {ROWS[2].case}, but the row is of mass, train, P_99999, LEFT, MLO",
        f'{train} row 5: image file path is "somewhere/else.dcm", expected it to begin like',
        f"{train} row 6: expected 14 cells as in the header, found 13",
        "cbis_ddsm: expected one calc_case_description_test_set.csv under root, found none",
        f"cbis_ddsm: csv/mass_case_description_test_set.csv row 2: expected one mammogram of {ROWS[6].case} under root",
        f'cbis_ddsm: csv/calc_case_description_train_set.csv row 3: "CBIS-DDSM/jpeg/{ROWS[5].series("mammogram")}/',
    ):
        assert sum(sentence.startswith(part) for sentence in found) == 1, (part, found)
    assert len(found) == 8 and str(tmp_path) not in " ".join(found)


@pytest.mark.parametrize("copy", ["DICOM", "JPEG"])
def test_a_missing_column(tmp_path: Path, cache: Path, copy: Copy) -> None:
    root = make(tmp_path / "data", copy)
    (table,) = root.rglob("calc_case_description_train_set.csv")
    table.write_text(table.read_text().replace("breast density", "density").replace("pathology", "pathologies"))
    first, second = sentences(root, cache)
    assert 'column "pathology" is missing. Did you mean "pathologies"?' in first
    assert 'column "breast_density" is missing' in second


def test_neither_copy_and_both(tmp_path: Path, cache: Path) -> None:
    write_tables(tmp_path / "none", ROWS)
    (sentence,) = sentences(tmp_path / "none", cache)
    assert "looked anywhere under root for folders like Mass-Training_P_00001_LEFT_CC with .dcm files" in sentence
    assert "or dicom_info.csv with jpeg/" in sentence and "found calc_case_description_test_set.csv, " in sentence
    (tmp_path / "empty").mkdir()
    found = sentences(tmp_path / "empty", cache)
    assert len(found) == 5 and found[0].endswith("found nothing.")
    make(tmp_path / "both", "DICOM")
    (tmp_path / "both" / "dicom_info.csv").write_text("image_path\n")
    (sentence,) = sentences(tmp_path / "both", cache)
    assert "found both" in sentence


def test_a_table_twice(tmp_path: Path, cache: Path) -> None:
    root = make(tmp_path / "data", "JPEG")
    name = "mass_case_description_test_set.csv"
    shutil.copy(root / "csv" / name, root / name)
    (sentence,) = sentences(root, cache)
    assert f"expected one {name} under root, found 2 (csv/{name}, {name})" in sentence


def test_links(tmp_path: Path, cache: Path) -> None:
    root = make(tmp_path / "data", "JPEG")
    digest = of(root, cache).digest()
    for row, place in ((ROWS[0], root / ".annex"), (ROWS[2], tmp_path / "outside")):
        place.mkdir()
        (image,) = (root / "jpeg" / row.series("mammogram")).iterdir()
        image.rename(place / "object")
        image.symlink_to(place / "object")
        if row == ROWS[0]:
            assert of(root, cache).digest() == digest, "inside the root"
    (sentence,) = sentences(root, cache)
    assert f'row 4: "jpeg/{ROWS[2].series("mammogram")}/' in sentence and "link that leaves" in sentence
