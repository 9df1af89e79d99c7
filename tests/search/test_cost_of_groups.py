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


def estimated(place: Path, trials: int, blocks: Any = 0, **more: Any) -> tuple[Estimate, int]:
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
    return found, len(planned.prepared.train) + len(planned.prepared.validation)


def test_a_job_of_heads_takes_more_than_a_trial(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "own_memory", lambda _: 1000)
    monkeypatch.setattr(cost, "remembered", lambda *_: Cost(1.0, 0.5, 0, 100))
    alone, images = estimated(place, 2, activations=0)
    deeper, _ = estimated(place, 40, {"choice": [0, 1]}, activations=0)
    assert alone.host_memory == deeper.host_memory == 1100, "no trial shares a job"
    kept, _ = estimated(place, 40)
    live, _ = estimated(place, 40, activations=0)
    assert live.host_memory - kept.host_memory == images * backbone("mae_tiny").width * 4
    more, _ = estimated(place, 80)
    assert 1100 < kept.host_memory < more.host_memory, "more heads in a job"
