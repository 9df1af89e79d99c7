"""A finished model on another dataset: nothing is fitted there, and it sees images as it learned to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from search.external import evaluate_external
from search.final_result import finals
from search.folder import SearchFolder
from search.report import report
from spaces.mistakes import Mistake
from tests.search.conftest import write_digits
from tests.search.finals import final_of, search_of
from trainables.card import ENSEMBLE, read_card
from trainables.metrics import compute
from trainables.predictor import load_predictor

CHANGES: dict[str, Any] = {"backbones": ["dinov2_tiny"], "strategy": "free", "comparison": {}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return digits_in(tmp_path_factory.mktemp("external"))


def digits_in(folder: Path) -> Path:
    """Digits of a search, and others of another source beside them."""
    write_digits(folder / "images", 200)
    digits = load_digits()
    for index in range(600, 720):
        path = folder / "others" / str(digits.target[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits.images[index] * (255 / 16)).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def model(home: Path) -> Path:
    return next(final_of(search_of(home, **CHANGES), seeds=1).glob("model-*"))


@pytest.fixture(scope="module")
def result(home: Path, model: Path) -> dict[str, Any]:
    (home / "same.yaml").write_text("reader: folder\nroot: others\nfit: stretch\npolicy: digits\n")  # as the model's
    [(path, result)] = evaluate_external(home / "same.yaml", [model])
    assert json.loads(path.read_text())["units"] == 120
    return result


def test_the_models_own_temperature_is_used(model: Path, result: dict[str, Any]) -> None:
    found, card = result["calibration"], read_card(model)
    assert found["temperature"] == card["temperature"] != 1
    assert found["test_before"] != found["test_after"] and found["test_after"]["ece"] is not None
    for part in ("test_before", "test_after"):
        for name in ("log_loss", "brier"):
            interval = found["intervals"][part][name]
            assert interval["value"] == pytest.approx(found[part][name], rel=1e-5)
            assert interval["low"] < interval["value"] < interval["high"]


def test_the_models_own_thresholds_are_used(model: Path, result: dict[str, Any]) -> None:
    card = read_card(model)
    assert [p["threshold"] for p in result["operating_points"]] == [p["threshold"] for p in card["operating_points"]]
    assert len(result["operating_points"]) == 10
    for point, of_final in zip(result["operating_points"], card["operating_points"], strict=True):
        assert (
            0 <= point["sensitivity"]["value"] <= 1
            and point["specificity"]["groups"] > of_final["specificity"]["groups"]
        )


def test_the_metric_is_over_the_models_own_classes(result: dict[str, Any]) -> None:
    assert result["classes_averaged"] == ["1", "4", "7"]
    assert result["shipped"]["value"] == pytest.approx(result["metrics"]["macro_auroc"])
    assert result["shipped"]["value"] == pytest.approx(np.mean([result["classes"][c]["auroc"] for c in (1, 4, 7)]))


def test_it_stands_in_the_report_of_its_search(model: Path, result: dict[str, Any], tmp_path: Path) -> None:
    found = SearchFolder(model.parent.parent)
    [made] = finals(found.path)
    assert [e["model"] for e in made.externals] == [model.name] and made.caveats_elsewhere == []
    shown = result["shipped"]
    interval = f"{shown['value']:.4f} [{shown['low']:.4f}, {shown['high']:.4f}]"
    brier = result["calibration"]["intervals"]["test_after"]["brier"]
    html = report([found], tmp_path / "r.html").read_text()
    table = html[html.index("External test sets") :]
    assert interval in table and f"data {result['dataset']['digest'][:8]}" in table and ">120<" in table
    assert f"{brier['value']:.4f} [{brier['low']:.4f}, {brier['high']:.4f}]" in table
    assert "others" not in html, "the folder's name"
    text = report([found], tmp_path / "r.md").read_text()
    assert f"| data {result['dataset']['digest'][:8]} | {model.name} | 120 | 120 | {interval} |" in text
    file = next(model.parent.glob(f"{model.name}-external-*.json"))
    whole = file.read_text()
    file.write_text(whole[:100])
    try:
        with pytest.raises(Mistake, match="is no result on an external set"):
            finals(found.path)
    finally:
        file.write_text(whole)


def test_an_ensemble_is_the_mean_of_its_members(tmp_path: Path) -> None:
    """At a temperature and thresholds of its own."""
    home = digits_in(tmp_path)
    [folder] = final_of(search_of(home, **CHANGES), seeds=2).glob("ensemble-*")
    (home / "set.yaml").write_text("reader: folder\nroot: others\n")
    [(path, found)] = evaluate_external(home / "set.yaml", [folder])
    assert path.name.startswith(folder.name) and found["model"] == folder.name
    card = read_card(folder, (ENSEMBLE,))
    assert found["calibration"]["temperature"] == card["temperature"]
    assert [p.get("threshold") for p in found["operating_points"]] == [
        p.get("threshold") for p in card["operating_points"]
    ]
    predictor = load_predictor([folder])
    files = sorted((home / "others").rglob("*.png"))
    probabilities = predictor.probabilities(files, [file.name for file in files])
    truth = np.array([int(file.parent.name) for file in files])
    assert len(predictor.members) == 2
    assert found["shipped"]["value"] == pytest.approx(compute("macro_auroc", truth, probabilities, 10, over=[1, 4, 7]))


def test_other_preprocessing_is_refused_with_both_values(home: Path, model: Path, result: dict[str, Any]) -> None:
    (home / "other.yaml").write_text(
        "reader: folder\nroot: others\nfit: pad\ncentre: 0.875\ncrop: disc\nside: left\npolicy: fundus\n"
        "augmentation: {flip_horizontal: 0.5}\n"
    )
    with pytest.raises(Mistake) as caught:
        evaluate_external(home / "other.yaml", [model])
    said = caught.value.sentences
    assert [sentence.split(":")[1].strip() for sentence in said] == [
        "fit", "centre", "crop", "side", "policy", "augmentation",
    ]  # fmt: skip
    assert "is pad, but" in said[0] and "learned with stretch" in said[0]
    assert "is 0.875, but" in said[1] and "learned with 1.0" in said[1]
    (home / "resolution.yaml").write_text("reader: folder\nroot: others\nresolution: 512\n")
    with pytest.raises(Mistake, match="resolution"):
        evaluate_external(home / "resolution.yaml", [model])
