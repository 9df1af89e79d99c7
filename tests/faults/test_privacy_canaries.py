"""Marks of personal data wherever a medical dataset may hold some: none of them leaves the machine."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from search.folder import SearchFolder
from search.places import FILE
from search.record import State
from search.study import JOURNAL
from tests.search.conftest import killable, succeed

assert killable  # the fixture
MARK = "Qzxjane"  # in every canary; no other word of this project holds it
NAMES = ("root", "folder", "file", "table", "column", "patient", "exif", "text", "name", "id", "birth", "comment")
CANARY = {name: f"{MARK}{name}" for name in NAMES}
SETTINGS = """\
name: canaries
dataset:
  reader: csv
  root: {root}
  policy: digits
  options: {{table: {table}.csv, group: {column}}}
backbones: [mae_tiny]
weights: random
space: {{batch_size: 32, resolution: 32, trained_blocks: 0, level: 0}}
budget: {{trials: 3, epochs: 2}}
storage: {storage}
"""


def exif_of(path: Path, pixels: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = CANARY["exif"], CANARY["exif"], CANARY["exif"]
    pixels.save(path.with_suffix(".jpg"), exif=exif, comment=CANARY["comment"].encode())


def text_of(path: Path, pixels: Image.Image) -> None:
    info = PngInfo()
    info.add_text("Patient", CANARY["text"])
    info.add_text("Comment", CANARY["text"], zip=True)
    pixels.save(path.with_suffix(".png"), pnginfo=info)


def header_of(path: Path, pixels: Image.Image) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = f"{CANARY['name']}^Doe", CANARY["id"]
    dataset.OtherPatientNames, dataset.ImageComments = CANARY["name"], CANARY["comment"]
    dataset.PatientBirthDate, dataset.InstitutionName = "19610203", CANARY["birth"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.height, pixels.width
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path.with_suffix(".dcm"), enforce_file_format=True)


def write_dataset(root: Path) -> None:
    """72 images of two classes, one in three each a JPEG, a PNG and a DICOM file, two of a patient."""
    generator = np.random.default_rng(0)
    folder = root / CANARY["folder"]
    folder.mkdir(parents=True)
    for index in range(72):
        values = generator.integers(0, 120, (32, 32), dtype=np.uint8) + np.uint8(100 * (index // 2 % 2))
        path = folder / f"{CANARY['file']}-{index:02d}"
        (exif_of, text_of, header_of)[index % 3](path, Image.fromarray(values))
    rows = [
        [f"{CANARY['folder']}/{path.name}", "ab"[index // 2 % 2], f"{CANARY['patient']} {index // 2}"]
        for index, path in enumerate(sorted(folder.iterdir()))
    ]
    with (root / f"{CANARY['table']}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", CANARY["column"]], *rows])


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray writes; its sockets need a short path."""
    folder = Path(tempfile.mkdtemp(prefix="medtune.", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_dataset(tmp_path / CANARY["root"])
    settings = SETTINGS.format(storage=tmp_path / "runs", root=tmp_path / CANARY["root"], **without(CANARY, "root"))
    (tmp_path / "search.yaml").write_text(settings)
    return tmp_path


def without(data: dict[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in data.items() if name != key}


def holding(*places: Path) -> list[Path]:
    """The files in which a canary stands, or whose own names hold one."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert files, "there is something to look at"
    marks = [MARK.lower().encode(coding) for coding in ("utf-8", "utf-16-le")]

    def holds(file: Path) -> bool:
        data = file.read_bytes().lower()
        return MARK.lower() in file.name.lower() or any(mark in data for mark in marks)

    return [file for file in files if holds(file)]


def wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_of_a_patient_leaves(place: Path, ray_folder: Path, killable: Any) -> None:
    """After search, export, final, report and predict, no canary is in MLflow's database and artifacts, the export, the
    model's folder, the result, the report, what was printed, and the logs of the search, of MLflow's mirror and Ray."""
    assert len(holding(place / CANARY["root"])) == 73, "canaries are where they were put, and are found"
    search = killable("search", place / "search.yaml")
    assert search.process.wait(timeout=900) == 0
    wait_for(lambda: not search.all(), 120)  # the mirror ends by itself
    found = place / "runs" / "canaries"
    printed = [succeed("status", found)]
    printed.append(succeed("export", found, "-o", place / "best.yaml"))
    printed.append(succeed("final", place / "best.yaml", "--seeds", "1", "-o", place / "final"))
    printed += [succeed("report", found, "-o", place / f"report.{form}") for form in ("html", "md", "csv")]
    [model] = [card.parent for card in (place / "final").glob("*/model.json")]
    printed.append(succeed("predict", model, place / CANARY["root"], "-o", place / "predictions.csv"))
    assert not any(MARK.lower() in text.lower() for text in printed)

    shared = [place / name for name in ("best.yaml", "report.html", "report.md", "report.csv", "final/result.json")]
    mirrored = list((place / "runs").glob("mlflow.db*"))
    mirrored += list((place / "runs").glob("mlartifacts"))
    logs = [found / "log.txt", found / "mlflow.log", ray_folder]
    assert holding(*shared, *mirrored, *logs, model) == []

    assert SearchFolder(found).config().dataset.root.endswith(CANARY["root"]), (
        "what stays here knows where the data lie"
    )
    assert holding(place / FILE) == [place / FILE]
    table = (place / "predictions.csv").read_text()
    assert table.count(CANARY["file"]) == 72, "a person finds their images again"
    assert not any(CANARY[name] in table for name in ("patient", "exif", "text", "name", "id", "birth", "comment"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_errors_that_name_files_stay_here(place: Path, ray_folder: Path, killable: Any) -> None:
    """Where every trial fails because of an image that has vanished, the record says which one; MLflow is told the
    kind of error and nothing of the file."""
    search = killable("search", place / "search.yaml", "--set", "mlflow=local")
    found = place / "runs" / "canaries"
    wait_for(lambda: (found / JOURNAL).exists(), 300)
    shutil.rmtree(place / "runs" / "cache" / "pixels")
    for file in (place / CANARY["root"] / CANARY["folder"]).iterdir():
        os.truncate(file, 10)
    search.process.wait(timeout=900)
    wait_for(lambda: not search.all(), 120)
    trials = SearchFolder(found).study().trials
    assert trials and all(trial.state is State.FAILED for trial in trials)
    assert CANARY["file"] in trials[0].cause, "the record, which stays here, names the file"
    database = list((place / "runs").glob("mlflow.db*"))
    assert any(b"medtune.cause" in file.read_bytes() for file in database), "the failure was mirrored"
    assert holding(*database, ray_folder) == []
