"""A final: what it says of the metric that was settled before the search, of the seed's luck, and of the margin."""

import io
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.console import Console
from search.export import export, read_export
from search.final import final
from search.final_evaluation import reseeded_value
from search.folder import SearchFolder
from spaces.mistakes import Mistake
from tests.search.conftest import write_digits
from tests.search.finals import final_of, search_of
from trainables.data.manifest import ALONE
from trainables.metrics import compute
from trainables.model_folder import read_card


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("final")
    write_digits(folder / "images", 200)
    return folder


@pytest.fixture(scope="module")
def found(data: Path) -> SearchFolder:
    return search_of(data, operating_point={"target": "sensitivity", "at": 0.95})


@pytest.fixture(scope="module")
def made(found: SearchFolder) -> Path:
    return final_of(found, seeds=3)


@pytest.fixture(scope="module")
def result(made: Path) -> dict[str, Any]:
    return json.loads((made / "result.json").read_text())


def test_every_value_is_over_the_classes_that_were_settled(made: Path, result: dict[str, Any]) -> None:
    assert result["classes_averaged"] == ["1", "4", "7"]
    for configuration in result["configurations"]:
        saved = np.load(made / f"{configuration['name']}-test.npz")
        values = [compute("macro_auroc", saved["labels"], p, 10, over=[1, 4, 7]) for p in saved["probabilities"]]
        assert [run["test"]["macro_auroc"] for run in configuration["seeds"]] == pytest.approx(values)
        assert configuration["test"]["value"] == pytest.approx(np.mean(values))
        everything = [compute("macro_auroc", saved["labels"], p, 10) for p in saved["probabilities"]]
        assert np.abs(np.subtract(values, everything)).max() > 1e-3, "the choice of classes makes a difference here"
        validated = np.load(
            made / "runs" / f"{configuration['name']}-{configuration['seeds'][0]['seed']}" / "validation.npz"
        )
        own = compute("macro_auroc", validated["truth"], validated["probabilities"], 10, over=[1, 4, 7])
        epochs = json.loads(
            (made / "runs" / f"{configuration['name']}-{configuration['seeds'][0]['seed']}" / "run.json").read_text()
        )["epochs"]
        assert epochs[-1]["value"] == pytest.approx(own)
        card = read_card(made / f"model-{configuration['name']}")
        assert card["config"]["classes_averaged"] == ["1", "4", "7"]


def test_the_seeds_luck_is_told_apart(result: dict[str, Any]) -> None:
    for configuration in result["configurations"]:
        own, *others = [run["validation"] for run in configuration["seeds"]]
        assert configuration["reseeded"] == {"value": pytest.approx(np.mean(others)), "seeds": 2, "own": own}


def test_nothing_is_reseeded_without_validation_or_other_seeds() -> None:
    assert reseeded_value([0.9, 0.8, 0.6]) == {"value": pytest.approx(0.7), "seeds": 2, "own": 0.9}
    assert reseeded_value([None, None]) is None and reseeded_value([0.9]) is None


def test_the_margin_that_was_settled_is_the_comparisons(result: dict[str, Any]) -> None:
    assert result["margin"] == result["comparison"]["margin"] == 0.9
    assert all(row["within_margin"] is (row["low"] >= -0.9) for row in result["comparison"]["recipes"])
    assert any(row["within_margin"] for row in result["comparison"]["recipes"])


def test_another_margin_is_another_question(found: SearchFolder, made: Path, tmp_path: Path) -> None:
    paths = [path for path, _ in export(found, tmp_path / "best.yaml", per="backbone")]
    for path in paths:
        path.write_text(path.read_text().replace("margin: 0.9", "margin: 0.8"))
    with pytest.raises(Mistake, match="opened before"):
        final(paths, seeds=3, output=tmp_path / "out")
    paths[1].write_text(paths[1].read_text().replace("margin: 0.8", "margin: 0.9"))
    with pytest.raises(Mistake, match=r"comparison\.margin is 0\.9, in .* it is 0\.8"):
        final(paths, seeds=3, output=tmp_path / "out")


def test_thresholds_reach_what_was_settled(result: dict[str, Any], made: Path) -> None:
    points = [
        point
        for configuration in result["configurations"]
        for of in (configuration, configuration["ensemble"])
        for point in of["operating_points"]
    ]
    assert len(points) == 40
    for point in points:
        assert (point["target"], point["wanted"]) == ("sensitivity", 0.95) and point["validation_sensitivity"] >= 0.95
    card = read_card(made / f"model-{result['configurations'][0]['name']}")
    assert card["operating_points"] == result["configurations"][0]["operating_points"]


def test_another_operating_point_is_another_question(found: SearchFolder, made: Path, tmp_path: Path) -> None:
    paths = [path for path, _ in export(found, tmp_path / "best.yaml", per="backbone")]
    for path in paths:
        path.write_text(path.read_text().replace("at: 0.95", "at: 0.9"))
    with pytest.raises(Mistake, match="opened before"):
        final(paths, seeds=3, output=tmp_path / "out")
    paths[1].write_text(paths[1].read_text().replace("target: sensitivity", "target: specificity"))
    with pytest.raises(Mistake, match=r"operating_point is specificity 0\.9, in .* it is sensitivity 0\.9"):
        final(paths, seeds=3, output=tmp_path / "out")


def test_other_versions_are_told_as_a_resume_tells_them(
    found: SearchFolder, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it goes on with its runs, which may have begun with others."""

    class GoesOn(Exception):
        pass

    def goes_on(*_: Any) -> None:
        raise GoesOn

    monkeypatch.setattr("search.final.train", goes_on)
    paths = [path for path, _ in export(found, tmp_path / "best.yaml", per="backbone")]
    for version in (None, "0.1"):
        for path in paths if version else []:
            path.write_text(re.sub("pillow: .*", f"pillow: '{version}'", path.read_text()))
        output = io.StringIO()
        with pytest.raises(GoesOn):
            final(paths, seeds=3, console=Console(output))
        told = f"pillow is {metadata.version('pillow')}, the search was started with {version}: values may differ;"
        assert output.getvalue().count("values may differ") == output.getvalue().count(told) == (version is not None)


def test_what_limits_every_figure_goes_with_it(result: dict[str, Any], made: Path) -> None:
    assert result["caveats"] == [ALONE]
    assert result["labels_from"] == {"validation": "", "test": ""}, "a folder doesn't say who labelled it"
    for model in [*made.glob("model-*"), *made.glob("ensemble-*")]:
        assert ALONE in (model / "README.md").read_text()


def test_an_export_says_what_its_value_means(found: SearchFolder, made: Path) -> None:
    saved = read_export(found.path / "best-mae_tiny.yaml")
    assert saved.config.classes_averaged == ("1", "4", "7") and saved.comparison.margin == 0.9
    assert (saved.found.protocol, saved.found.folds) == ("own", 1)


def test_every_seed_and_class_has_its_interval(result: dict[str, Any], made: Path) -> None:
    """Around its own value; where a class has none, there is none and the reason is told."""
    for configuration in result["configurations"]:
        for run in configuration["seeds"]:
            assert run["interval"]["value"] == pytest.approx(run["test"]["macro_auroc"])
            assert run["interval"]["low"] < run["interval"]["value"] < run["interval"]["high"]
        [shipped] = [r for r in configuration["seeds"] if r["seed"] == configuration["shipped"]["seed"]]
        assert shipped["interval"] == configuration["shipped"]["test"], "the model that ships is told with one interval"
        saved = np.load(made / f"{configuration['name']}-test.npz")
        labels, ensemble = saved["labels"], saved["probabilities"].mean(axis=0)
        intervals = []
        for c, row in enumerate(configuration["classes"]):
            assert set(row["intervals"]) == {"recall", "auroc", "average_precision"}
            for what, interval in row["intervals"].items():
                assert interval["value"] == pytest.approx(row[what]), what
                assert interval["low"] is not None or any("no interval" in note for note in interval["warnings"])
                if interval["low"] is not None:
                    intervals.append(interval["low"] <= interval["value"] <= interval["high"] != interval["low"])
            of_ensemble = configuration["ensemble"]["classes"][c]["intervals"]["recall"]["value"]
            assert of_ensemble == pytest.approx((ensemble[labels == c].argmax(1) == c).mean()), "its own, not a seed's"
        assert len(intervals) > 5 and all(intervals)


def test_proper_scores_have_intervals_and_the_calibration_error_none(result: dict[str, Any]) -> None:
    for configuration in result["configurations"]:
        calibrated = configuration["calibration"]
        for part, intervals in calibrated["intervals"].items():
            assert set(intervals) == {"log_loss", "brier"}
            for name, interval in intervals.items():
                assert interval["value"] == pytest.approx(calibrated[part][name], rel=1e-5)
                assert interval["low"] < interval["value"] < interval["high"]
