"""A final through Ray Train: two workers that share each global batch compute what one does."""

import json
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.search.conftest import medtune, succeed


@pytest.fixture(scope="module")
def export(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best configuration without drop-path, whose noise belongs to a worker, and with everything trained."""
    path = tmp_path_factory.mktemp("export") / "best.yaml"
    succeed("export", finished, "-o", path)
    settings = YAML(typ="safe").load(path.read_text())
    settings["config"] |= {"drop_path": 0.0, "trained_blocks": "all", "ema": 0.05, "level": 2}
    settings["storage"] = str(path.parent)  # a ledger of its own
    with path.open("w") as file:
        YAML(typ="safe").dump(settings, file)
    return path


def losses(folder: Path) -> np.ndarray:
    [run] = list((folder / "runs").iterdir())
    result = json.loads((run / "run.json").read_text())
    return np.concatenate([epoch["step_losses"] for epoch in result["epochs"]])


def test_two_workers_have_the_losses_of_one(export: Path, tmp_path: Path) -> None:
    succeed("final", export, "--seeds", "1", "-o", tmp_path / "one", "--again", "test of workers")
    output = succeed(
        "final", export, "--seeds", "1", "--workers", "2", "-o", tmp_path / "two", "--again", "test of workers"
    )
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) >= 20
    relative = np.abs(two - one) / np.abs(one)
    print(f"largest relative difference of the first 20 steps: {relative[:20].max():.2e}, of all: {relative.max():.2e}")
    assert 0 < relative[:20].max() < 1e-5  # 0 would mean that only one worker computed
    assert "model:" in output


def test_more_workers_than_there_is_room_for(export: Path, tmp_path: Path) -> None:
    done = medtune("final", export, "--seeds", "1", "--workers", "4000", "-o", tmp_path / "many", "--again", "test")
    assert done.returncode == 2 and "4000 workers" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "many").exists()
