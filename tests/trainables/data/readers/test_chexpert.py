from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spaces.config import DatasetConfig, SplitConfig
from spaces.mistakes import Mistake
from trainables.data.manifest import Manifest
from trainables.data.readers import read
from trainables.data.readers.chexpert import FIVE, FOURTEEN, TWO_SOURCES, Options, Rows, assemble
from trainables.data.splits import split
from trainables.data.units import scored, units_of

HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FOURTEEN]
PATIENTS = 24


def of(root: Path, cache: Path, **options) -> Manifest:
    return read(DatasetConfig(reader="chexpert", root=str(root), options=options), cache, None)


def sentences(root: Path, cache: Path, **options) -> tuple[str, ...]:
    with pytest.raises(Mistake) as mistake:
        of(root, cache, **options)
    return mistake.value.sentences


def labels_of(study: int) -> list[str]:
    """1, 0, uncertain and not mentioned, each finding in its turn."""
    return [["1.0", "0.0", "", "-1.0"][(study + i) % 4] for i in range(14)]


def table(path: Path, rows: list[list[str]], header: list[str] = HEADER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def make(tmp_path: Path, write_image) -> Callable[..., Path]:
    """24 patients for training with a study of two views and one of a single view; four for validation."""

    def write(name: str = "data", first: str = "CheXpert-v1.0-small", tables: str = "", images: str = "") -> Path:
        root = tmp_path / name
        seed = 0
        for part, patients in (("train", range(1, PATIENTS + 1)), ("valid", range(101, 105))):
            rows = []
            for patient in patients:
                for study, view, word in ((1, 1, "frontal"), (1, 2, "lateral"), (2, 1, "frontal")):
                    seed += 1
                    relative = f"{part}/patient{patient:05d}/study{study}/view{view}_{word}.jpg"
                    write_image(root / images / relative, seed, mode="L")
                    findings = labels_of(patient + study)
                    if part == "valid":
                        findings = ["1.0" if label == "1.0" else "0.0" for label in findings]
                    projection = ["AP", "PA"][patient % 2] if word == "frontal" else ""
                    of_person = [["Male", "Female", "Unknown"][patient % 3], str(patient % 90), word.title()]
                    rows.append([f"{first}/{relative}".lstrip("/"), *of_person, projection, *findings])
            table(root / tables / f"{part}.csv", rows)
        return root

    return write


COPIES = [
    ("CheXpert-v1.0-small", "", ""),
    ("CheXpert-v1.0", "", ""),
    ("", "", ""),
    ("CheXpert-v1.0-small", "CheXpert-v1.0-small", "CheXpert-v1.0-small"),
    ("CheXpert-v1.0", "CheXpert-v1.0", "CheXpert-v1.0"),
    ("CheXpert-v1.0-small", "", "CheXpert-v1.0-small"),
]


def test_every_copy_is_the_same(make, cache: Path) -> None:
    digests = set()
    for i, (first, tables, images) in enumerate(COPIES):
        root = make(str(i), first, tables, images)
        manifest = of(root, cache)
        assert all(path.startswith(images) and (root / path).is_file() for path in manifest.paths.tolist())
        digests.add(manifest.digest())
    assert len(digests) == 1


def test_labels_units_truth_and_attributes(make, cache: Path) -> None:
    root = make()
    manifest = of(root, cache)
    assert (manifest.task, manifest.metric, manifest.policy) == ("multilabel", "macro_auroc", "radiograph")
    assert manifest.classes == FIVE and manifest.combine == "max"
    assert len(manifest) == 2 * (PATIENTS + 4), "frontal views alone"
    parts = manifest.official.tolist()
    assert (parts.count("train"), parts.count("test"), parts.count("validation")) == (2 * PATIENTS, 8, 0)
    row = manifest.paths.tolist().index("train/patient00003/study2/view1_frontal.jpg")
    values = {"1.0": 1, "0.0": 0, "-1.0": -1, "": np.nan}
    expected = np.array([values[label] for label in labels_of(5)], dtype=np.float32)
    truth = [{"1.0": 1, "0.0": 0, "-1.0": np.nan, "": 0}[label] for label in labels_of(5)]
    whole = of(root, cache, findings="fourteen")
    np.testing.assert_array_equal(whole.labels[row], expected)
    np.testing.assert_array_equal(whole.truth[row], truth)
    np.testing.assert_array_equal(manifest.labels[row], expected[[FOURTEEN.index(name) for name in FIVE]])
    assert manifest.groups[row] == "patient00003"
    attributes = {name: str(values[row]) for name, values in manifest.attributes.items()}
    assert attributes == {"sex": "male", "age": "0-19", "view": "Frontal PA", "labels from": "reports"}
    assert any("scored as absent (blanks: zero)" in note for note in manifest.notes)
    assert any("valid.csv is the test" in note for note in manifest.notes)
    assert manifest.caveats == (TWO_SOURCES,) and of(root, cache, rows="valid").caveats == (), "of one source alone"


def test_blanks_may_be_left_unscored(make, cache: Path) -> None:
    root = make()
    zero, mask = of(root, cache), of(root, cache, blanks="mask")
    np.testing.assert_array_equal(zero.labels, mask.labels)
    blank = np.isnan(zero.labels)
    assert blank.any() and np.isnan(mask.truth[blank]).all() and (zero.truth[blank] == 0).all()
    uncertain = zero.labels == -1
    assert uncertain.any() and np.isnan(zero.truth[uncertain]).all() and np.isnan(mask.truth[uncertain]).all()
    assert any(f"its {uncertain.sum()} uncertain ones never are" in note for note in mask.notes)
    assert any("aren't scored (blanks: mask)" in note for note in mask.notes)
    assert zero.digest() != mask.digest(), "what is evaluated stands in the digest"


def test_blanks_of_the_test_are_never_scored(make, cache: Path) -> None:
    root = make()
    path = root / "valid.csv"
    path.write_text(path.read_text().replace("1.0", "").replace("0.0", "0"))
    manifest = of(root, cache)
    test = manifest.official == "test"
    assert np.isnan(manifest.truth[test]).any() and (manifest.truth[test] == 0).any()
    np.testing.assert_array_equal(np.isnan(manifest.truth[test]), np.isnan(manifest.labels[test]))


@pytest.mark.parametrize(("views", "images", "studies"), [("frontal", 56, 56), ("lateral", 28, 28), ("both", 84, 56)])
def test_views_of_a_study_are_one_unit(make, cache: Path, views: str, images: int, studies: int) -> None:
    manifest = of(make(), cache, views=views, findings="fourteen")
    assert (len(manifest), len(units_of(manifest))) == (images, studies) and manifest.classes == FOURTEEN
    words = {view.split()[0].lower() for view in manifest.attributes["view"].tolist()}
    assert words == ({"frontal", "lateral"} if views == "both" else {views})


def test_split_by_patient(make, cache: Path) -> None:
    manifest = of(make(), cache, views="both")
    s = split(manifest, SplitConfig(validation=0.25, folds=3))
    assert set(manifest.official[s.test].tolist()) == {"test"}
    groups = [set(manifest.groups[rows].tolist()) for rows in (s.train, s.validation, s.test)]
    assert [len(g) for g in groups] == [18, 6, 4] and not groups[0] & groups[1]
    assert sum(scored(manifest.take(s.validation))[name].positive for name in FIVE) > 0


def test_a_patient_in_two_official_parts_is_refused_with_numbers(make, cache: Path, write_image) -> None:
    root = make()
    path = root / "valid.csv"
    for number in (101, 102):
        path.write_text(path.read_text().replace(f"patient{number:05d}", f"patient{number - 100:05d}"))
        (root / f"valid/patient{number:05d}").rename(root / f"valid/patient{number - 100:05d}")
    manifest = of(root, cache)
    with pytest.raises(Mistake) as mistake:
        split(manifest, SplitConfig())
    first = mistake.value.sentences[0]
    assert (
        "2 groups stand in more than one part" in first and "(4 in train, 0 in validation, 4 in test images)" in first
    )
    s = split(manifest, SplitConfig(official=False))
    assert not set(manifest.groups[s.test]) & set(manifest.groups[np.union1d(s.train, s.validation)])


def add_official_test(root: Path, write_image, kind: str, lacking: str = "") -> None:
    findings = [name for name in FOURTEEN if name not in ("No Finding", lacking)]
    rows = []
    for patient in range(201, 206):
        for view, word in ((1, "frontal"), (2, "lateral")):
            relative = f"test/patient{patient:05d}/study1"
            write_image(root / relative / f"view{view}_{word}.jpg", patient * 10 + view, mode="L")
            labels = [str(float((patient + i) % 2)) for i in range(len(findings))]
            if kind == "Path":
                rows.append([f"{relative}/view{view}_{word}.jpg", *labels])
            elif view == 1:
                rows.append([f"CheXpert-v1.0/{relative}", *labels])
    table(root / ("groundtruth.csv" if kind == "Study" else "test_labels.csv"), rows, [kind, *findings])


@pytest.mark.parametrize("kind", ["Study", "Path"])
def test_the_official_test_takes_the_place_of_valid(make, cache: Path, write_image, kind: str) -> None:
    root = make()
    add_official_test(root, write_image, kind)
    write_image(root / "test/patient00299/study1/view1_frontal.jpg", 7)
    manifest = of(root, cache, views="both")
    test = manifest.official == "test"
    assert test.sum() == 10 and not any("valid" in path for path in manifest.paths.tolist())
    assert len(units_of(manifest.take(test))) == 5
    row = manifest.paths.tolist().index("test/patient00202/study1/view2_lateral.jpg")
    listed = [name for name in FOURTEEN if name != "No Finding"]
    assert manifest.truth[row].tolist() == [(202 + listed.index(name)) % 2 for name in FIVE]
    assert manifest.attributes["view"][row] == "Lateral"
    assert any("valid.csv is in no part" in note and "rows: valid" in note for note in manifest.notes)
    assert any("1 images under test/ aren't in" in note for note in manifest.notes)
    assert of(root, cache).official.tolist().count("test") == 5, "frontal ones"
    whole = of(root, cache, findings="fourteen")
    assert np.isnan(whole.truth[whole.official == "test", 0]).all()
    assert any('no column "No Finding"' in note for note in whole.notes)


def test_valid_is_a_second_validation_by_itself(make, cache: Path, write_image) -> None:
    root = make()
    add_official_test(root, write_image, "Study")
    shutil.rmtree(root / "train")
    (root / "train").mkdir()  # nothing of the other tables is looked at
    manifest = of(root, cache, rows="valid", views="both")
    assert len(manifest) == 12 and all(path.startswith("valid/") for path in manifest.paths.tolist())
    assert len(units_of(manifest)) == 8 and manifest.combine == "max"
    assert set(manifest.attributes["labels from"].tolist()) == {"radiologists"}
    assert set(manifest.official.tolist()) == {""}
    assert not np.isnan(manifest.truth).any()
    (root / "valid" / "patient00101" / "study1" / "view1_frontal.jpg").unlink()
    assert any("no such file" in sentence for sentence in sentences(root, cache, rows="valid"))


def test_labels_of_a_test_without_its_images(make, cache: Path, write_image) -> None:
    root = make()
    table(root / "groundtruth.csv", [], ["Study", *FOURTEEN])
    manifest = of(root, cache)
    assert any("groundtruth.csv lies there without test/" in note for note in manifest.notes)
    assert manifest.official.tolist().count("test") == 8


def test_every_defect_in_one_run(make, cache: Path, tmp_path: Path, write_image) -> None:
    root = make()
    train = root / "train"
    (train / "patient00003/study1/view1_frontal.jpg").unlink()
    (train / "patient00003/study2/view1_frontal.jpg").unlink()
    (train / "patient00003/study2/view1_frontal.jpg").symlink_to(write_image(tmp_path / "outside.jpg", 3))
    with (root / "train.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    edema, atelectasis = HEADER.index("Edema"), HEADER.index("Atelectasis")
    rows[1][0] += "\n"  # a newline in a quoted path is no defect, and counts for no row
    rows[2][edema] = "2.0"  # row 3
    rows[3][edema] = "yes"
    rows[4][1] = "M"
    rows[5][2] = "old"
    rows[6][3] = "Oblique"
    rows[9][4] = "XX"  # row 10
    rows[10][0] = "CheXpert-v1.0-small/valid/patient00004/study1/view1_frontal.jpg"
    rows[11][0] = ""
    rows[12][0] = "somewhere/else.jpg"
    rows[13].append("more")
    rows[14][atelectasis] = "1.0" if rows[13][atelectasis] == "0.0" else "0.0"
    rows[17][atelectasis] = "1.0" if rows[16][atelectasis] == "0.0" else "0.0"  # row 18, of row 17's study
    rows[19][0] = rows[18][0]  # row 20
    rows[22][0] = "train/../../outside.jpg"
    rows[23][0] = "CheXpert-v1.0-small/train/patient00008/study1/.."
    rows.append(rows[30][:3])  # row 74
    text = (tmp_path / "train.csv").open("w", newline="")
    with text as file:
        csv.writer(file).writerows(rows)
    (root / "train.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "train.csv").read_bytes())
    valid = root / "valid.csv"
    valid.write_text(
        valid.read_text()
        .replace("Consolidation", "Consolidations")
        .replace("Age", "Ages")
        .replace("Pleural Other", "Fracture")
    )
    found = sentences(root, cache)
    t, v = "chexpert: train.csv", "chexpert: valid.csv"
    expected = (
        f'{t} row 3: Edema is "2.0", expected 1, 0, -1 or nothing.',
        f'{t} row 4: Edema is "yes"',
        f'{t} row 5: Sex is "M", expected Female, Male or Unknown.',
        f'{t} row 6: Age is "old", expected years from 0 to 120.',
        f'{t} row 7: Frontal/Lateral is "Oblique", expected Frontal or Lateral.',
        f'{t} row 8: "train/patient00003/study1/view1_frontal.jpg" no such file',
        f'{t} row 10: "train/patient00003/study2/view1_frontal.jpg" is a link that leaves',
        f'{t} row 10: AP/PA is "XX"',
        f'{t} row 11: Path is "CheXpert-v1.0-small/valid/patient00004/study1/view1_frontal.jpg", expected .../train/',
        f"{t} row 12: Path is empty,",
        f'{t} row 13: Path is "somewhere/else.jpg", expected .../train/patient.../study.../an image.',
        f"{t} row 14: expected 19 cells as in the header, found 20.",
        f"{t} row 18: other labels than in row 17, which is of the same study; give both the same.",
        f'{t} row 20: "train/patient00006/study2/view1_frontal.jpg" stands in row 19 already',
        f'{t} row 23: Path is "train/../../outside.jpg"',
        f'{t} row 24: "train/patient00008/study1/.." leaves the dataset\'s root',
        f"{t} row 74: expected 19 cells as in the header, found 3.",
        f'{v}: column "Consolidation" is missing. Did you mean "Consolidations"?',
        f'{v}: column "Age" is missing. Did you mean "Ages"?',
        f'{v}: column "Fracture" stands twice in the header',
    )
    for part in expected:
        assert sum(part in sentence for sentence in found) == 1, (part, found)
    rest = [s for s in found if not any(part in s for part in expected)]
    assert all("Sex is" in sentence or "more Sex" in sentence for sentence in rest), (
        "of valid.csv, which has ages there"
    )


def test_defects_of_the_official_test(make, cache: Path, write_image) -> None:
    root = make()
    add_official_test(root, write_image, "Study", lacking="Edema")
    write_image(root / "test/patient00201/study1/view3.jpg", 1)
    path = root / "groundtruth.csv"
    lines = path.read_text().splitlines()
    lines += [lines[1].replace("1.0", "0.0"), lines[2].replace("test/patient00202", "test/patient00999")]
    lines += [lines[3].replace("test/", "tset/"), lines[4].replace("0.0", "x", 1).replace("00204", "00998")]
    path.write_text("\n".join(lines))
    found = sentences(root, cache)
    expected = (
        'groundtruth.csv: column "Edema" is missing.',
        "groundtruth.csv row 7: other labels than in row 2, which is of the same study; give both the same.",
        "groundtruth.csv row 8: no images under test/patient00999/study1/,",
        'groundtruth.csv row 9: Study is "CheXpert-v1.0/tset/patient00203/study1", expected .../test/',
        "groundtruth.csv row 10: no images under test/patient00998/study1/,",
        "chexpert: test/patient00201/study1/view3.jpg: its name says neither frontal nor lateral",
    )
    for part in expected:
        assert sum(part in sentence for sentence in found) == 1, (part, found)
    assert len(found) == len(expected)
    path.write_text(path.read_text().replace("Study,", "Id,"))
    assert any('column "Study" or "Path" is missing' in sentence for sentence in sentences(root, cache))


def test_what_lacks(make, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "none" / "images").mkdir(parents=True)
    (sentence,) = sentences(tmp_path / "none", cache)
    assert "there is no train.csv and train/; found images" in sentence
    root = make()
    (root / "valid.csv").unlink()
    (sentence,) = sentences(root, cache)
    assert "valid.csv: no such file" in sentence
    make("data", tables="CheXpert-v1.0")
    (sentence,) = sentences(root, cache)
    assert "found train.csv and CheXpert-v1.0/train.csv" in sentence


@pytest.mark.slow
def test_223414_rows_from_table_to_split_in_seconds() -> None:
    count = 223_414
    drawn = np.random.default_rng(0)
    patients = np.sort(drawn.integers(0, 64_540, count)).tolist()
    studies = [f"patient{p:05d}/study{i // 2}" for i, p in enumerate(patients)]
    of_study = drawn.choice(np.array([1, 0, -1, 2], dtype=np.int8), (count // 2 + 1, 14), p=[0.2, 0.1, 0.05, 0.65])
    train = Rows(
        "train", [f"train/{study}/view{i}_frontal.jpg" for i, study in enumerate(studies)],
        [f"patient{p:05d}" for p in patients], studies, of_study[np.arange(count) // 2],
        ["male"] * count, ["40-59"] * count, ["Frontal AP"] * count,
    )  # fmt: skip
    unknown, names = [""] * 20, [f"patient{p:05d}" for p in range(70_000, 70_020)]
    test = Rows(
        "test", [f"valid/{p}/study1/view1_frontal.jpg" for p in names], names, [f"{p}/study1" for p in names],
        np.ones((20, 14), dtype=np.int8), unknown, unknown, unknown,
    )  # fmt: skip
    contents = np.array([f"{i:032x}" for i in range(count + 20)])
    start = time.process_time()
    manifest = assemble(Path("nowhere"), [train, test], contents, Options(findings="fourteen"), [])
    manifest.check_units()
    s = split(manifest, SplitConfig())
    assert time.process_time() - start < 20
    assert (len(s.train) + len(s.validation), len(s.test)) == (count, 20)
    assert abs(len(s.validation) / count - 0.2) < 0.001
    share = (manifest.labels[:count] == 1).mean(axis=0)
    assert np.abs((manifest.labels[s.validation] == 1).mean(axis=0) - share).max() < 0.01


def test_uncertain_findings_may_be_scored_as_absent(make, cache: Path) -> None:
    root = make()
    masked, absent = of(root, cache), of(root, cache, uncertain="zero")
    unsure = masked.labels == -1
    assert unsure.any() and np.isnan(masked.truth[unsure]).all() and (absent.truth[unsure] == 0).all()
    assert np.array_equal(absent.labels, masked.labels, equal_nan=True)
    assert np.array_equal(absent.truth[~unsure], masked.truth[~unsure], equal_nan=True)
    assert any("as absent (uncertain: zero)" in note for note in absent.notes)
