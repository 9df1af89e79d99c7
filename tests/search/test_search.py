"""The whole path: from a folder of images to an exported configuration, a final result, predictions and a report."""

import csv
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna import load_study
from optuna.trial import TrialState
from PIL import Image
from sklearn.datasets import load_digits

from search.folder import SearchFolder
from search.optimism import corrected_value
from search.record import State, best
from search.spent import Shared, shared
from search.study import open_storage
from tests.search.conftest import medtune, status, succeed
from trainables.metrics import compute
from trainables.trial_files import END, trial_folder


def test_the_record(finished: Path) -> None:
    study = SearchFolder(finished).study()
    assert len(study.trials) == 8
    assert {t.state for t in study.trials} <= {State.COMPLETE, State.PRUNED}
    assert len({str(t.point) for t in study.trials}) == 8
    for trial in study.trials:
        assert sorted(trial.epochs) == list(range(1, trial.done + 1))
        assert trial.done == 4 or trial.state is State.PRUNED
    seen = load_study(study_name="digits", storage=open_storage(finished, None))
    assert len(seen.trials) == 8 and not seen.get_trials(states=(TrialState.RUNNING, TrialState.FAIL))
    winner = best(study.trials, "maximize")
    assert winner and seen.best_value == winner.value


def test_validation_predictions_are_kept(finished: Path) -> None:
    folder = SearchFolder(finished)
    labels = folder.prepared().manifest.labels[folder.prepared().validation]
    for trial in folder.study().trials:
        if trial.state is State.COMPLETE:
            kept = np.load(trial_folder(finished, trial.number) / "validation.npz")
            assert np.array_equal(kept["truth"], labels)
            value = compute("balanced_accuracy", kept["truth"], kept["probabilities"], 10)
            assert value == pytest.approx(trial.values()[-1], abs=1e-12)


def test_what_a_person_sees(finished: Path) -> None:
    output = (finished.parents[1] / "output.txt").read_text()
    assert "RANDOM" in output and "Best: trial" in output and "medtune export" in output
    assert "\x1b" not in output and "WARNING" not in output and "ray" not in output.lower().replace("array", "")
    assert (finished / "log.txt").stat().st_size > 0
    assert not (finished / "ray").exists()


def test_status(finished: Path) -> None:
    data = status(finished)
    assert sum(data["states"].values()) == 8 and data["metric"] == "balanced_accuracy"
    assert data["trials"][data["best"]]["value"] == max(t["value"] or 0 for t in data["trials"])
    assert set(data["trials"][0]) >= {"number", "state", "cause", "parameters", "epochs", "value"}
    plain = succeed("status", "digits", env={**os.environ, "MEDTUNE_STORAGE": str(finished.parent)})
    assert "8 of 8 trials" in plain and "Best: trial" in plain


def test_no_test_row_lies_in_the_searchs_data(finished: Path, digits: Path) -> None:
    prepared = SearchFolder(finished).prepared()
    assert len(prepared.manifest) + sum(prepared.test_counts.values()) == 500
    assert len(prepared.train) + len(prepared.validation) == len(prepared.manifest)
    kept = b"".join(p.read_bytes() for p in (finished / "data").iterdir())
    left_out = {p.name for p in (digits / "images").rglob("*.png")} - {Path(p).name for p in prepared.manifest.paths}
    assert len(left_out) == sum(prepared.test_counts.values())
    assert not any(name.encode() in kept for name in left_out)


def test_mlflow_holds_every_trial_once(finished: Path) -> None:
    succeed("sync", finished)
    succeed("sync", finished)
    database = sqlite3.connect(finished.parent / "mlflow.db")
    study = SearchFolder(finished).study()
    tags = database.execute("select value, count(*) from tags where key = 'medtune.trial' group by value").fetchall()
    assert sorted(n for _, n in tags) == [1] * 8
    for trial in study.trials:
        rows = database.execute(
            "select m.step, m.value from metrics m join tags t on t.run_uuid = m.run_uuid "
            "where t.key = 'medtune.trial' and t.value like ? and m.key = 'balanced_accuracy' order by m.step",
            (f"%:{trial.number}",),
        ).fetchall()
        assert rows == [(e, trial.epochs[e].value) for e in sorted(trial.epochs)]


@pytest.fixture(scope="module")
def final(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("final")
    succeed("export", finished, "-o", home / "best.yaml")
    output = succeed("final", home / "best.yaml", "--seeds", "2", "-o", home / "out")
    (home / "output.txt").write_text(output)
    return home / "out"


def test_final_gives_the_trials_own_value_again(finished: Path, final: Path) -> None:
    result = json.loads((final / "result.json").read_text())
    [configuration] = result["configurations"]
    assert configuration["seeds"][0]["validation"] == configuration["found"]["value"]
    assert configuration["seeds"][0]["seed"] == configuration["config"]["seed"]
    assert configuration["seeds"][1]["seed"] != configuration["seeds"][0]["seed"]


def test_final_has_an_interval_and_notes_the_opening(finished: Path, final: Path) -> None:
    result = json.loads((final / "result.json").read_text())
    [configuration] = result["configurations"]
    for interval in (configuration["test"], configuration["shipped"]["test"]):
        assert 0 < interval["low"] < interval["value"] < interval["high"] <= 1
    predicted = np.load(final / f"{configuration['name']}-test.npz")
    values = [compute("balanced_accuracy", predicted["labels"], p, 10) for p in predicted["probabilities"]]
    assert configuration["test"]["value"] == pytest.approx(np.mean(values))
    assert [s["test"]["balanced_accuracy"] for s in configuration["seeds"]] == pytest.approx(values)
    [line] = (finished.parent / "test-openings.jsonl").read_text().splitlines()
    assert json.loads(line)["test"] == result["digests"]["test"]


def test_final_tells_classes_calibration_and_thresholds(final: Path) -> None:
    [found] = json.loads((final / "result.json").read_text())["configurations"]
    assert [c["name"] for c in found["classes"]] == [str(digit) for digit in range(10)]
    assert all(c["positive"] and 0 <= c["auroc"] <= 1 for c in found["classes"])
    calibrated = found["calibration"]
    assert calibrated["validation_after"]["log_loss"] != calibrated["validation_before"]["log_loss"]
    assert len(found["operating_points"]) == 10
    assert all(p["wanted"] == 0.9 and p["sensitivity"]["value"] is not None for p in found["operating_points"])
    card = json.loads((final / f"model-{found['name']}" / "model.json").read_text())
    assert card["temperature"] == calibrated["temperature"]


def test_a_model_on_an_external_test_set(final: Path, tmp_path: Path) -> None:
    elsewhere = load_digits()
    for index in range(600, 700):  # none of them was in the search
        path = tmp_path / "images" / str(elsewhere.target[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(elsewhere.images[index] * (255 / 16)).astype(np.uint8)).save(path)
    (tmp_path / "other.yaml").write_text("reader: folder\nroot: images\n")
    model = next(final.glob("model-*"))
    output = succeed("final", "--evaluate", tmp_path / "other.yaml", model)
    [path] = final.glob("model-*-external-*.json")
    result = json.loads(path.read_text())
    assert result["units"] == 100 and result["metric"] == "balanced_accuracy"
    assert result["shipped"]["low"] < result["shipped"]["value"] < result["shipped"]["high"]
    assert f"{result['shipped']['value']:.4f}" in output
    [opening] = (final / "test-openings.jsonl").read_text().splitlines()
    assert json.loads(opening)["configurations"] == 1
    succeed("final", "--evaluate", tmp_path / "other.yaml", model)  # the same again is the same opening
    assert len((final / "test-openings.jsonl").read_text().splitlines()) == 1
    (tmp_path / "images" / "9").rename(tmp_path / "images" / "nine")
    done = medtune("final", "--evaluate", tmp_path / "other.yaml", model)
    assert done.returncode == 2 and "nine" in done.stderr and "Traceback" not in done.stderr


def test_the_best_value_is_corrected_for_being_the_best(finished: Path) -> None:
    study = SearchFolder(finished).study()
    corrected = corrected_value(finished, study.trials, "accuracy")
    assert not isinstance(corrected, str)
    assert corrected.value is not None and corrected.value < corrected.found
    assert corrected.low < corrected.value < corrected.high
    assert corrected.trials == sum(t.state is State.COMPLETE for t in study.trials)
    own = corrected_value(finished, study.trials, study.identity["metric"])
    assert not isinstance(own, str)
    assert own.found == pytest.approx(max(t.value for t in study.trials if t.value is not None)), "of the same quantity"


def test_the_test_set_is_opened_once(finished: Path, final: Path, tmp_path: Path) -> None:
    export = final.parent / "best.yaml"
    done = medtune("final", export, "--seeds", "1", "-o", tmp_path / "other")
    assert done.returncode == 2 and "opened before" in done.stderr and "--again" in done.stderr
    assert not (tmp_path / "other").exists()
    before = (final / "result.json").read_text()
    output = succeed("final", export, "--seeds", "2", "-o", final)  # the same again is the same opening
    assert "kept from before" in output
    same = json.loads((final / "result.json").read_text())
    assert same["configurations"] == json.loads(before)["configurations"]
    output = succeed("final", export, "--seeds", "1", "-o", tmp_path / "other", "--again", "a test of the ledger")
    assert "opening 2" in output


def test_predict_gives_the_finals_own_probabilities(finished: Path, final: Path, digits: Path, tmp_path: Path) -> None:
    result = json.loads((final / "result.json").read_text())
    [configuration] = result["configurations"]
    kept = np.load(final / f"{configuration['name']}-test.npz")
    shipped = [s["seed"] for s in configuration["seeds"]].index(configuration["shipped"]["seed"])
    used = {Path(p).name for p in SearchFolder(finished).prepared().manifest.paths}
    test_images = sorted(
        (p for p in (digits / "images").rglob("*.png") if p.name not in used), key=lambda p: f"{p.parent.name}/{p.name}"
    )
    table = tmp_path / "predictions.csv"
    succeed("predict", final / f"model-{configuration['name']}", *test_images, "-o", table)
    rows = list(csv.DictReader(table.open()))
    found = np.array([[float(row[f"p_{c}"]) for c in range(10)] for row in rows])
    assert np.abs(found - kept["probabilities"][shipped]).max() < 1e-6
    assert [row["image"] for row in rows] == [str(p) for p in test_images]


def test_exports_of_several(finished: Path, tmp_path: Path) -> None:
    succeed("export", finished, "-o", tmp_path / "best.yaml", "--top", "2")
    succeed("export", finished, "-o", tmp_path / "per.yaml", "--per", "backbone")
    names = {p.name for p in tmp_path.iterdir()}
    assert {"best-1.yaml", "best-2.yaml"} < names and any(n.startswith("per-") for n in names)
    done = medtune("export", finished, "-o", tmp_path / "b.yaml", "--top", "99")
    assert done.returncode == 2 and "--top 99" in done.stderr


def test_the_report(finished: Path, final: Path, tmp_path: Path) -> None:
    succeed("report", finished, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.lstrip().startswith("<!doctype html>") or page.lstrip().startswith("<!DOCTYPE html>")
    assert "digits" in page and "RANDOM" in page.upper()


def test_each_view_is_computed_once_for_all_trials(settings: Path, tmp_path: Path) -> None:
    """Two jobs of two trials each, one after the other: images were decoded before, and of the two epochs' views the
    first job computed the frozen part, once; every trial says what it computed and what it read."""
    heads = ("backbones=[mae_tiny]", "space.trained_blocks=0", "space.head=linear", "space.level=1")
    usual = ("budget={trials: 4, epochs: 2}", "stopping.rule=off", "resources.concurrent=1", "mlflow=off")
    succeed("search", settings, *(word for change in (*heads, *usual) for word in ("--set", change)))
    folder = SearchFolder(tmp_path / "runs" / "digits")
    trials, images = folder.study().trials, len(folder.prepared().train)
    assert [t.state for t in trials] == 4 * [State.COMPLETE] and len({t.job for t in trials}) == 2
    told = [json.loads((trial_folder(folder.path, t.number) / END).read_text())[-1]["counts"] for t in trials]
    others = {"computed": 0, "read": 2 * images, "decoded": 0}
    assert told == [others | {"computed": 2 * images}, *3 * [others]]
    assert shared(folder.path, trials) == Shared(computed=2 * images, read=8 * images)
    kept = list((folder.config().cache_folder / "activations").glob("*/array"))
    assert len(kept) == 3, "two views of the training images, and the validation images"


@pytest.mark.slow
def test_more_trials_for_a_finished_search(finished: Path, settings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "digits"
    succeed(
        "search",
        settings,
        "--set",
        "budget={trials: 2, epochs: 1}",
        "--set",
        "mlflow=off",
        "--set",
        "resources.concurrent=1",
    )
    file = folder / "search.yaml"
    file.write_text(file.read_text().replace("trials: 2", "trials: 3"))
    output = succeed("resume", folder)
    assert "3 trials" in output
    assert len(SearchFolder(folder).study().trials) == 3


@pytest.mark.slow
def test_a_time_limit_leaves_trials_resumable(settings: Path, tmp_path: Path) -> None:
    output = succeed(
        "search", settings, "--set", "budget={trials: 500, epochs: 5000, hours: 0.02}", "--set", "mlflow=off",
        "--set", "space.trained_blocks=all",
    )  # fmt: skip
    assert "go on with: medtune resume" in output
    states: dict[str, Any] = status(tmp_path / "runs" / "digits")["states"]
    assert states.get("running", 0) >= 1 and not states.get("failed")


@pytest.mark.slow
def test_trials_that_diverge_fail_with_their_cause(settings: Path, tmp_path: Path) -> None:
    wild = ("--set", "space.head_lr=1.0e+20", "--set", "space.warmup=0.0", "--set", "budget={trials: 3, epochs: 2}")
    done = medtune("search", settings, *wild, "--set", "mlflow=off", "--set", "resources.concurrent=1")
    assert done.returncode == 1 and "No trial was completed" in done.stdout and "Traceback" not in done.stderr
    study = SearchFolder(tmp_path / "runs" / "digits").study()
    assert [t.state for t in study.trials] == [State.FAILED] * 3
    for trial in study.trials:
        assert "the loss was" in trial.cause and "at step" in trial.cause and trial.value is None and not trial.epochs
    assert "running" not in status(tmp_path / "runs" / "digits")["states"]
    done = medtune("export", tmp_path / "runs" / "digits", "-o", tmp_path / "best.yaml")
    assert done.returncode == 2 and "no complete trial" in done.stderr
