"""A model on disk gives the same predictions, and isn't believed where it was altered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spaces.mistakes import Mistake
from tests.trainables.digits import Digits
from trainables.data.pixels import pixel_spec
from trainables.files import write_json
from trainables.inference import predict
from trainables.loop import fine_tune
from trainables.model_folder import CARD, WEIGHTS, Trained, load_model, save_model


@pytest.fixture(scope="module")
def trained(digits: Digits) -> tuple[Trained, np.ndarray]:
    """A model, and its probabilities of the validation images."""
    config = digits.config(epochs=1, trained_blocks=1, ema=0.3, drop_path=0.2)
    data = digits.data(config)
    outcome = fine_tune(config, data)
    spec = pixel_spec(digits.dataset, config.resolution)
    return Trained(outcome.model, config, data.classes, data.task, spec), outcome.probabilities


@pytest.fixture
def saved(trained: tuple[Trained, np.ndarray], tmp_path: Path) -> Path:
    save_model(tmp_path / "model", trained[0], {"seed": 3, "test": {"value": 0.1 + 0.2, "warnings": ["few"]}})
    return tmp_path / "model"


def test_loaded_it_predicts_bitwise_the_same(trained: tuple[Trained, np.ndarray], saved: Path, digits: Digits) -> None:
    model, probabilities = trained
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    found = load_model(saved)
    assert torch.equal(torch.rand(3), expected), "loading should leave the random state alone"
    assert not found.model.training
    assert np.array_equal(predict(found.model, found.config, digits.data(model.config).validation), probabilities)
    assert (found.config, found.classes, found.task, found.pixels) == (
        model.config, model.classes, model.task, model.pixels,
    )  # fmt: skip


def test_others_may_read_it_where_they_may_read_new_files(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert {f.stat().st_mode for f in saved.iterdir()} == {(tmp_path / "new").stat().st_mode}


def test_the_card_says_what_is_needed(saved: Path) -> None:
    card = json.loads((saved / CARD).read_text())
    assert card["classes"] == [str(digit) for digit in range(10)]
    assert card["preprocessing"]["pixels"] == {
        "height": 56,
        "width": 56,
        "fit": "stretch",
        "crop": "none",
        "side": "keep",
        "centre": 1.0,
    }
    assert card["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert card["seed"] == 3 and card["test"] == {"value": 0.1 + 0.2, "warnings": ["few"]}
    assert sorted(path.name for path in saved.parent.rglob("*")) == sorted(["model", WEIGHTS, CARD])


@pytest.mark.parametrize("weights", ["pretrained", "random", "/secret/of/somebody/weights.pth"])
def test_where_weights_came_from_is_kept_but_no_path(
    trained: tuple[Trained, np.ndarray], tmp_path: Path, weights: str
) -> None:
    config = trained[0].config.model_copy(update={"weights": weights})
    said = weights if not weights.startswith("/") else "file"
    save_model(tmp_path / "first", replace(trained[0], config=config), {})
    again = load_model(tmp_path / "first")
    save_model(tmp_path / "second", again, {})
    for name in ("first", "second"):
        text = (tmp_path / name / CARD).read_text()
        assert json.loads(text)["config"]["weights"] == said
        assert "secret" not in text and str(tmp_path) not in text
    assert again.config.weights == said


def test_saved_over_an_earlier_one(trained: tuple[Trained, np.ndarray], saved: Path) -> None:
    save_model(saved, trained[0], {"seed": 4})
    card = json.loads((saved / CARD).read_text())
    assert card["seed"] == 4 and "test" not in card
    load_model(saved)


@pytest.mark.parametrize("at", [0.001, 0.5, 0.999])
def test_tampered_weights_are_refused(saved: Path, at: float) -> None:
    data = bytearray((saved / WEIGHTS).read_bytes())
    data[int(at * len(data))] ^= 1
    (saved / WEIGHTS).write_bytes(data)
    with pytest.raises(Mistake, match=f"{WEIGHTS}: doesn't have the digest that {CARD} says"):
        load_model(saved)


def test_missing_and_truncated_weights(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(Mistake, match="doesn't have the digest"):
        load_model(saved)
    (saved / WEIGHTS).unlink()
    with pytest.raises(Mistake, match=rf"{WEIGHTS}: can't be read \(No such file"):
        load_model(saved)


CARDS: list[tuple[dict[str, Any], str]] = [
    ({"classes": [str(9 - digit) for digit in range(10)]}, "has another digest than it was written with"),
    ({"weights": "0" * 64}, "has another digest than it was written with"),
    ({"digest": None}, "has another digest than it was written with"),
    ({"format": 99}, "has format 99, this version reads 1"),
    ({"kind": "a cake"}, "isn't a medtune model's"),
]


@pytest.mark.parametrize(("changes", "sentence"), CARDS)
def test_a_tampered_card_is_refused(saved: Path, changes: dict[str, Any], sentence: str) -> None:
    write_json(saved / CARD, {**json.loads((saved / CARD).read_text()), **changes})
    with pytest.raises(Mistake, match=f"{CARD}: {sentence}"):
        load_model(saved)


def test_what_is_no_model_at_all(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=f"holds no {CARD}"):
        load_model(tmp_path)
    (saved / CARD).write_text("[]")
    with pytest.raises(Mistake, match="isn't a medtune model's"):
        load_model(saved)
    for broken in (b"{", b"\xff"):
        (saved / CARD).write_bytes(broken)
        with pytest.raises(Mistake, match="is no JSON"):
            load_model(saved)
