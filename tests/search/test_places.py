"""An export without its folders: nothing of a machine in what is sent, and everything where it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.folder import to_yaml
from search.places import FILE, complete, divide, join, keep
from spaces.mistakes import Mistake
from spaces.strict import read_yaml

PRIVATE = "/data/jane_doe"


def export(trial: int = 3, weights: str = f"{PRIVATE}/weights.pth") -> dict[str, Any]:
    return {
        "found": {"search": "digits", "trial": trial, "value": 0.5},
        "dataset": {"reader": "csv", "root": PRIVATE, "options": {"table": "jane_doe.csv"}, "fit": "pad"},
        "config": {"backbone": "mae_tiny", "weights": weights},
        "storage": f"{PRIVATE}/runs",
        "cache": f"{PRIVATE}/cache",
    }


@pytest.mark.parametrize("weights", ["random", "pretrained", f"{PRIVATE}/weights.pth"])
def test_divided_and_joined_again(weights: str) -> None:
    sent, places = divide(export(weights=weights))
    assert "jane" not in repr(sent) and sent["dataset"] == {"reader": "csv", "fit": "pad"}
    assert join(sent, places) == export(weights=weights)


def test_what_a_person_writes_into_an_export_wins() -> None:
    sent, places = divide(export())
    sent["dataset"]["root"], sent["storage"] = "/mine", "/mine/runs"
    joined = join(sent, places)
    assert joined["dataset"]["root"] == "/mine" and joined["storage"] == "/mine/runs"
    assert joined["dataset"]["options"] == export()["dataset"]["options"]


def test_several_exports_of_a_folder_each_know_their_own(tmp_path: Path) -> None:
    for trial in (3, 5):
        data = export(trial)
        data["dataset"]["root"] = f"/data/{trial}"
        sent, places = divide(data)
        keep(tmp_path, sent, places)
    for trial in (3, 5):  # the one before still stands where an export is interrupted
        found = complete(tmp_path / "best.yaml", divide(export(trial))[0])
        assert found["dataset"]["root"] == f"/data/{trial}"


def test_an_export_that_was_sent_says_what_it_lacks(tmp_path: Path) -> None:
    sent, _ = divide(export())
    with pytest.raises(Mistake) as caught:
        complete(tmp_path / "best.yaml", sent)
    assert "dataset.root, storage, cache, config.weights" in str(caught.value)
    sent |= {"storage": "runs", "cache": "runs/cache", "config": {"backbone": "mae_tiny", "weights": "random"}}
    sent["dataset"]["root"] = "images"
    assert complete(tmp_path / "best.yaml", sent) == sent


def test_a_spoiled_file_of_places(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(to_yaml({"digits": 3}))
    with pytest.raises(Mistake, match="export again"):
        complete(tmp_path / "best.yaml", divide(export())[0])
    assert read_yaml(tmp_path / FILE) == {"digits": 3}
