"""A finished model on another dataset: nothing is fitted there, and it sees images as it learned to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from search.external import UNSEEN, evaluate_external
from search.final_result import finals
from search.folder import SearchFolder
from search.ledger import NAME
from search.report import report
from spaces.mistakes import Mistake
from tests.search.conftest import write_digits
from tests.search.finals import final_of, search_of
from tests.trainables.data.conftest import write_image
from tests.trainables.data.readers.test_chexpert import make
from trainables.card import ENSEMBLE, read_card
from trainables.metrics import compute
from trainables.predictor import load_predictor

assert write_image and make  # the fixtures
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


def table(home: Path, name: str, digits: range, patient: int) -> Path:
    """Settings of a table of some digits, two of a patient, whose numbers begin with `patient`."""
    digits_of = load_digits()
    rows = ["path,label,patient"]
    for index in digits:
        path = home / name / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits_of.images[index] * (255 / 16)).astype(np.uint8)).save(path)
        rows.append(f"{index}.png,{digits_of.target[index]},{patient + (index - digits[0]) // 2}")
    (home / name / "labels.csv").write_text("\n".join(rows) + "\n")
    settings = home / f"{name}.yaml"
    settings.write_text(f"reader: csv\nroot: {name}\noptions: {{table: labels.csv, group: patient}}\n")
    return settings


def test_patients_and_images_that_any_of_the_models_learned_from_are_refused(tmp_path: Path) -> None:
    dataset = {"reader": "csv", "policy": "digits", "options": {"table": "labels.csv", "group": "patient"}}
    for name, digits, patient in (("ours", range(200), 0), ("theirs", range(200, 400), 1000)):
        table(tmp_path, name, digits, patient)
    models = [
        next(final_of(search_of(tmp_path, **CHANGES, name=name, dataset={**dataset, "root": name}), 1).glob("model-*"))
        for name in ("ours", "theirs")
    ]
    ledger = (tmp_path / "runs" / NAME).read_text()
    others = table(tmp_path, "others", range(600, 700), 1090)  # other images, of patients 1090 to 1139
    assert len(evaluate_external(others, models[:1])) == 1, "the first learned from none of them"
    with pytest.raises(Mistake) as caught:
        evaluate_external(others, models, again="both")
    [said] = caught.value.sentences
    learned = {int(g.removeprefix("group ")) for g in SearchFolder(models[1].parents[1]).prepared().manifest.groups}
    shared = len(learned & set(range(1090, 1140)))
    assert 0 < shared < 10, "but for those in the test"
    assert f"{2 * shared} of this set's 100 images belong to {shared} groups" in said and models[1].name in said
    copies = table(tmp_path, "copies", range(190, 210), 5000)
    with pytest.raises(Mistake) as caught:
        evaluate_external(copies, models)
    assert [s.split(" that ")[1].split(" learned")[0] for s in caught.value.sentences] == [m.name for m in models]
    assert len((tmp_path / "runs" / NAME).read_text().splitlines()) == len(ledger.splitlines()) + 1


def test_openings_name_searches_and_stand_in_the_ledger_of_each_model(tmp_path: Path) -> None:
    home = digits_in(tmp_path)
    models = [
        next(final_of(search_of(home, **CHANGES, name=name, storage=str(home / name)), 1).glob("model-*"))
        for name in ("first", "second")
    ]
    (home / "set.yaml").write_text("reader: folder\nroot: others\n")
    [(_, alone)] = evaluate_external(home / "set.yaml", models[:1])
    assert alone["opening"] == {"opening": 1, "searches": 1, "configurations": 1} and UNSEEN not in alone["caveats"]
    both = evaluate_external(home / "set.yaml", models, again="to compare")
    assert [result["opening"]["searches"] for _, result in both] == [2, 2]
    for name, openings in (("first", [("first",), ("first", "second")]), ("second", [("first", "second")])):
        lines = (home / name / NAME).read_text().splitlines()[1:]  # the first is the final's
        assert [tuple(json.loads(line)["searches"]) for line in lines] == openings
    moved = shutil.copytree(models[0], tmp_path / "elsewhere" / "a-model")
    [(_, found)] = evaluate_external(home / "set.yaml", [moved])
    assert UNSEEN in found["caveats"], "what it learned from isn't there to be looked at"


def test_labels_of_two_sources_and_training_patients_are_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    root = make()
    dataset = {"reader": "chexpert", "root": str(root), "policy": "radiograph"}
    changes = {**CHANGES, "classes_averaged": None, "dataset": dataset}
    [model] = final_of(search_of(tmp_path, **changes), 1).glob("model-*")
    opened = (tmp_path / "runs" / NAME).read_text()
    lateral = tmp_path / "lateral.yaml"
    lateral.write_text(f"reader: chexpert\nroot: {root}\noptions: {{views: lateral}}\n")
    with pytest.raises(Mistake) as caught:
        evaluate_external(lateral, [model])
    sources, patients = caught.value.sentences
    assert "labels of radiologists and of reports" in sources and "rows: valid" in sources
    assert "24 of this set's 28 images belong to 24 groups" in patients, "four are of the test"
    lateral.write_text(f"reader: chexpert\nroot: {root}\noptions: {{views: lateral, rows: valid}}\n")
    with pytest.raises(Mistake, match="this test set was opened before"):
        evaluate_external(lateral, [model])
    assert (tmp_path / "runs" / NAME).read_text() == opened
