"""What a search of heads alone will take: a job of them holds more than a trial."""

from pathlib import Path
from typing import Any

import pytest

from search import cost
from search.cost import Estimate, estimate
from search.plan import plan
from spaces.backbone import backbone
from spaces.config import SearchConfig
from tests.search.conftest import write_digits
from trainables.probe import Cost


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "images", 150)
    return folder


def estimated(place: Path, trials: int, blocks: Any = 0, **more: Any) -> tuple[Estimate, tuple[int, int]]:
    """And the number of images of training and of validation."""
    settings = {
        "name": "digits", "dataset": {"reader": "folder", "root": "images", "policy": "digits"},
        "backbones": ["mae_tiny"], "weights": "random", "storage": str(place / "runs"), "mlflow": "off",
        "space": {"batch_size": 16, "head": "linear", "resolution": 32, "trained_blocks": blocks},
        "budget": {"trials": trials, "epochs": 8}, "metric": "accuracy", "resources": {"concurrent": 1}, **more,
    }  # fmt: skip
    planned = plan(SearchConfig.model_validate(settings), place)
    found = estimate(planned)
    assert found is not None
    return found, (len(planned.prepared.train), len(planned.prepared.validation))


def test_a_job_of_heads_takes_more_than_a_trial(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "own_memory", lambda _: 1000)
    monkeypatch.setattr(cost, "remembered", lambda *_: Cost(1.0, 0.5, 0, 100))
    alone, images = estimated(place, 2, activations=0)
    deeper, _ = estimated(place, 40, {"choice": [0, 1]}, activations=0)
    assert alone.host_memory == deeper.host_memory == 1100, "no trial shares a job"
    kept, _ = estimated(place, 40)
    live, _ = estimated(place, 40, activations=0)
    assert live.host_memory - kept.host_memory == sum(images) * backbone("mae_tiny").width * 4
    more, _ = estimated(place, 80)
    assert 1100 < kept.host_memory < more.host_memory, "more heads in a job"


def test_targets_of_a_range_differ_from_head_to_head(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of the configurations that were drawn are of one kind: a job may have more."""
    monkeypatch.setattr(cost, "own_memory", lambda _: 1000)
    monkeypatch.setattr(cost, "remembered", lambda *_: Cost(1.0, 0.5, 0, 100))
    space = {"batch_size": {"choice": [4, 8, 16, 32]}, "head": "linear", "resolution": 32, "trained_blocks": 0}
    space |= {"mixup": 0.0}
    heads = 64
    (same, (train, _)), (own, _) = (
        estimated(place, 2 * heads, space={**space, "label_smoothing": smoothing})
        for smoothing in (0.1, {"float": [0.0, 0.2]})
    )
    assert own.host_memory - same.host_memory == (heads - 1) * train * 10 * 4
