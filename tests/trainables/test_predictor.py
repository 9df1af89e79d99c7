"""Model folders as people use them: raw, calibrated, at thresholds, alone and together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from spaces.mistakes import Mistake
from tests.trainables.digits import Digits
from trainables.calibration import tempered
from trainables.card import ENSEMBLE, answer_columns, read_card, thresholds
from trainables.data.pixels import pixel_spec
from trainables.model import build_model
from trainables.model_folder import Trained, save_ensemble, save_model
from trainables.predictor import load_predictor

POINTS = [
    {"name": "0", "threshold": 0.1, "target": "specificity"},
    {"name": "1", "threshold": None, "target": "specificity"},
    {"name": "2", "undefined": "0 of 9 rows of validation are positive"},
]


def untrained(digits: Digits, seed: int, task: str = "classification") -> Trained:
    config = digits.config(seed=seed)
    torch.manual_seed(seed)
    model = build_model(config, 10, task).eval()  # type: ignore[arg-type]
    spec = pixel_spec(digits.dataset, config.resolution)
    return Trained(model, config, tuple("0123456789"), task, spec)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folders(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models that differ in their heads."""
    home = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        save_model(
            home / f"model-{seed}", untrained(digits, seed), {"temperature": 0.5 * seed, "operating_points": POINTS}
        )
    return [home / "model-1", home / "model-2"]


@pytest.fixture(scope="module")
def images(digits: Digits) -> list[Path]:
    return sorted((digits.folder / "images").rglob("*.png"))[::20]


def names(images: list[Path]) -> list[str]:
    return [path.name for path in images]


def test_raw_calibrated_and_at_thresholds(folders: list[Path], images: list[Path]) -> None:
    predictor = load_predictor(folders[:1])
    raw = predictor.probabilities(images, names(images))
    assert raw.shape == (len(images), 10) and raw.sum(axis=1) == pytest.approx(1, abs=1e-6)
    answers = predictor.answers(raw)
    assert list(answers) == list(answer_columns(read_card(folders[0])))
    assert [c for c in answers if c.startswith("positive_")] == ["positive_0", "positive_1"]
    assert answers["positive_0"] == [int(p >= 0.1) for p in raw[:, 0]]
    middle = sorted(raw[:, 0].tolist())[4]
    at_middle = replace(predictor, thresholds={"0": middle}).answers(raw)["positive_0"]
    assert sum(at_middle) == len(raw) - 4  # who is at a threshold has reached it
    assert answers["positive_1"] == [0] * len(raw)  # nothing reaches an infinite threshold
    assert answers["predicted"] == [str(c) for c in raw.argmax(axis=1)]
    expected = tempered(raw, 0.5, several=False)
    assert np.allclose(np.array([answers[f"calibrated_{c}"] for c in range(10)]).T, expected)
    assert np.abs(expected - raw).max() > 1e-3


def test_contents_are_as_good_as_files(folders: list[Path], images: list[Path]) -> None:
    predictor = load_predictor(folders[:1])
    contents = [path.read_bytes() for path in images]
    assert np.array_equal(
        predictor.probabilities(images, names(images)), predictor.probabilities(contents, names(images))
    )


def test_an_ensemble_is_the_mean_of_its_members(folders: list[Path], images: list[Path], tmp_path: Path) -> None:
    of_each = np.stack([load_predictor([f]).probabilities(images, names(images)) for f in folders])
    assert np.abs(of_each[0] - of_each[1]).max() > 1e-3
    points = [{"name": "3", "threshold": 0.2}]
    ensemble = tmp_path / "ensemble"
    save_ensemble(
        ensemble,
        {f"seed-{i}": folder for i, folder in enumerate(folders)},
        {"temperature": 2.0, "operating_points": points, "combine": "max"},
    )
    predictor = load_predictor([ensemble])
    assert predictor.probabilities(images, names(images)) == pytest.approx(of_each.mean(axis=0), abs=1e-7)
    assert (predictor.temperature, predictor.thresholds, predictor.combine) == (2.0, {"3": 0.2}, "max")
    together = load_predictor(folders)  # the same models, but nothing was fitted for their mean
    assert together.probabilities(images, names(images)) == pytest.approx(of_each.mean(axis=0), abs=1e-7)
    assert together.temperature is None and together.thresholds == {}
    assert list(together.answers(of_each[0])) == ["predicted", *(f"p_{c}" for c in range(10))]
    for folder in folders:
        (folder / "README.md").write_text("written after the ensemble was made")
    assert not list(ensemble.rglob("README.md"))
    with pytest.raises(Mistake, match="is of an ensemble, expected a single model"):
        read_card(ensemble)
    assert read_card(ensemble, (ENSEMBLE,))["members"].keys() == {"seed-0", "seed-1"}


def test_a_member_that_was_exchanged_is_refused(folders: list[Path], tmp_path: Path) -> None:
    save_ensemble(tmp_path / "e", {"a": folders[0], "b": folders[1]}, {})
    (tmp_path / "e" / "a").rename(tmp_path / "aside")
    (tmp_path / "e" / "b").rename(tmp_path / "e" / "a")
    (tmp_path / "aside").rename(tmp_path / "e" / "b")
    with pytest.raises(Mistake, match="isn't the model that the ensemble was made with"):
        load_predictor([tmp_path / "e"])


def test_models_of_other_classes_are_not_averaged(folders: list[Path], digits: Digits, tmp_path: Path) -> None:
    other = replace(untrained(digits, 3), classes=tuple("abcdefghij"))
    save_model(tmp_path / "other", other, {})
    with pytest.raises(Mistake, match="give models of one task and the same classes"):
        load_predictor([folders[0], tmp_path / "other"])


def test_findings_are_predicted_where_they_reach_their_threshold(digits: Digits, tmp_path: Path) -> None:
    save_model(tmp_path / "m", untrained(digits, 4, "multilabel"), {"temperature": 2.0, "operating_points": POINTS})
    predictor = load_predictor([tmp_path / "m"])
    raw = np.full((2, 10), 0.4, np.float32)
    raw[0, 0] = 0.05  # below its threshold
    raw[1, 2] = 0.5  # has none: as likely as not is enough
    raw[:, 1] = 0.99  # nothing reaches its threshold
    answers = predictor.answers(raw)
    assert answers["predicted"] == ["", "0; 2"]
    assert answers["calibrated_1"][0] == pytest.approx(1 / (1 + (0.01 / 0.99) ** 0.5), abs=1e-4)
    assert thresholds({"operating_points": None}) == {}


def test_images_that_cannot_be_used_are_all_named(folders: list[Path], images: list[Path], tmp_path: Path) -> None:
    given: list[Path | bytes] = [images[0], b"no image", tmp_path / "gone.png", images[1].read_bytes()[:60]]
    with pytest.raises(Mistake) as caught:
        load_predictor(folders[:1]).probabilities(given, ["first", "second", "third", "fourth"])
    said = "\n".join(caught.value.sentences)
    assert len(caught.value.sentences) == 3
    assert "second: not an image" in said and "third: can't be read (No such file" in said and "fourth: " in said
    with pytest.raises(Mistake, match=r"\.\.\. and 2 more images"):
        load_predictor(folders[:1]).probabilities([b"x"] * 12, [str(i) for i in range(12)])


def test_dicom_is_an_image_like_another(folders: list[Path], tmp_path: Path) -> None:
    pixels = (np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).copy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 8, 8, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    predictor = load_predictor(folders[:1])
    both = predictor.probabilities([tmp_path / "a.png", tmp_path / "a.dcm"], ["png", "dicom"])
    assert both[0] == pytest.approx(both[1], abs=1e-7)
