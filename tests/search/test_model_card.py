"""The card that lies beside a final's model: all that is promised is on it, and nothing that is private."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.model_card import _interval, card_text
from search.registry import FinalModel
from tests.search.conftest import write_digits
from tests.search.finals import final_of, search_of
from tests.search.test_predict import SEARCH
from trainables.card import README, read_card

DATA = {"reader": "folder", "versions": {"torch": "2.15.0"}, "groups": {"train": 9, "validation": 3, "test": 4}}


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("jane_doe_19610203")
    write_digits(home / "images", 200)
    return final_of(search_of(home, **SEARCH))


@pytest.fixture
def told(final: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of the final, and of its one configuration."""
    result = json.loads((final / "result.json").read_text())
    return result, result["configurations"][0]


def test_what_is_promised_is_on_it(final: Path, told: tuple[dict[str, Any], dict[str, Any]]) -> None:
    result, report = told
    [model] = final.glob("model-*")
    text = (model / README).read_text()
    for digest in ("data", "split", "test"):
        assert result["digests"][digest] in text
    for name in "0123456789":
        row = f"| {name} | " + " | ".join(str(result["counts"][p][name]) for p in ("train", "validation", "test"))
        assert row in text
    for run in report["seeds"]:
        assert f"| {run['seed']}" in text and f"| {_interval(run['interval'])} |" in text
    for row in report["classes"]:
        told_of = [_interval(row["intervals"][what]) for what in ("recall", "auroc", "average_precision")]
        assert f"| {row['name']} | {row['positive']} | {' | '.join(told_of)} |" in text
    for part in ("test_before", "test_after"):
        own = report["calibration"]["intervals"][part]
        assert own["brier"]["low"] is not None
        error = report["calibration"][part]["ece"]
        assert f"| {_interval(own['log_loss'])} | {_interval(own['brier'])} | {error:.4f} |" in text
    for words in (
        "has no interval: of few images",
        f"{report['shipped']['test']['value']:.4f}",
        "opening 1 of this test set",
        f"medtune predict {model.name} IMAGES",
        f"at temperature {report['calibration']['temperature']:.4f}",
        "specificity 0.9",
        "Not a medical device",
        "RANDOM weights",
        "56 x 56 pixels",
        "torch ",
        "| groups | 128 | 32 | 40 |",
    ):
        assert words in text, words
    assert "jane_doe" not in text and "/" + "tmp" not in text and ".png" not in text.lower().replace("png, jpeg", "")


def test_an_interval_of_few_groups_says_so(final: Path, told: tuple[dict[str, Any], dict[str, Any]]) -> None:
    result, report = told
    [model] = final.glob("model-*")
    for warnings, mark in (([], ""), (["interval unreliable: 4 groups, at least 10 are needed"], " (few groups)")):
        test = {**report["test"], "value": 0.7, "low": 0.5, "high": 0.9, "warnings": warnings}
        text = card_text(model, result, {**report, "test": test}, DATA)
        assert f"| 0.7000 [0.5000, 0.9000]{mark} |" in text


def test_it_is_not_called_the_best(final: Path, told: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """It may be the second, or the best of its backbone alone."""
    result, report = told
    report["found"] |= {"trial": 7, "complete": 9}
    text = " ".join(card_text(next(final.glob("model-*")), result, report, DATA).split())
    assert "(trial 7, chosen from 9 complete trials)" in text and "the best of 9" not in text


def test_the_ensembles_card_is_its_own(final: Path, told: tuple[dict[str, Any], dict[str, Any]]) -> None:
    [ensemble] = final.glob("ensemble-*")
    text = (ensemble / README).read_text()
    found = told[1]["ensemble"]
    assert "The mean of 2 seeds' models" in text
    assert f"| this ensemble | {found['test']['value']:.4f}" in text
    assert f"at temperature {found['calibration']['temperature']:.4f}" in text
    for row in found["classes"]:
        assert f"| {row['name']} | {row['positive']} | {_interval(row['intervals']['recall'])} |" in text
    assert f"| {_interval(found['calibration']['intervals']['test_after']['log_loss'])} |" in text
    assert "expected of the configuration" not in text and f"medtune predict {ensemble.name}" in text


@pytest.mark.parametrize(
    ("backbone", "licence"),
    [
        ("mae_base", "CC-BY-NC-4.0 (no commercial use)"),
        ("aimv2_large", "apple-ascl (Apple's own terms)"),
        ("clip_base", "see OpenAI's model card (which calls deployed use out of scope)"),
        ("dinov2_base", "Apache-2.0"),
        ("timm/convnextv2_atto.fcmae_ft_in1k", "cc-by-nc-4.0 (no commercial use)"),
        (
            "timm/convnext_tiny.eupe_lvd1689m",
            "fair-noncommercial-research-license (no commercial use, Meta's own terms)",
        ),
    ],
)
def test_licences(final: Path, told: tuple[dict[str, Any], dict[str, Any]], backbone: str, licence: str) -> None:
    """With what they ask for, on the card and in the registry, also as timm writes their names."""
    result, report = told
    model = next(final.glob("model-*"))
    for weights, words in (
        ("pretrained", f"published weights of {backbone}. Their licence: **{licence}**. What was fine-tuned"),
        ("file", f"weights for {backbone} from a file. Whoever made that file knows its licence; the licence of the"),
    ):
        report["config"] |= {"backbone": backbone, "weights": weights}
        text = card_text(model, result, report, DATA)
        assert words in text and f"**{licence}**" in text and "RANDOM" not in text
        assert ("published weights" in text) == (weights == "pretrained")
        described = FinalModel(model, {**read_card(model), "config": report["config"]}).description()
        assert licence in described
        assert ("that of a file" in described) == (weights == "file")


def test_a_value_of_a_table_cannot_break_the_card(final: Path, told: tuple[dict[str, Any], dict[str, Any]]) -> None:
    result, report = told
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "warnings": ["a|b"]}
    report["subgroups"] = [
        {"attribute": "view", "value": value, "groups": 7, "units": 7, "metric": interval}
        for value in ("A|<b>\n", "/home/jane")
    ]
    text = card_text(next(final.glob("model-*")), result, report, DATA)
    assert "| view: withheld | 7 | 0.5000 [0.4000, 0.6000] |" in text
    assert "jane" not in text and "<b>" not in text
