"""The benchmark of a device: what it counts and says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.device import KINDS, operations, trial

ROOT = Path(__file__).parents[1]
BY_NAME = {kind.name: kind for kind in KINDS}


def needed(name: str, kept: bool) -> float:
    return operations(trial("dinov2_small", 56, BY_NAME[name], 8, 2), kept)


def test_what_is_read_is_not_counted() -> None:
    """Of 12 blocks and the patches before them: a backward pass costs two forward ones."""
    whole = needed("everything trained", kept=False)
    last, kept = (needed(f"last block, {how}", kept=how == "kept") for how in ("computed", "kept"))
    assert whole / last == pytest.approx(36 / 14, rel=0.05)
    assert whole / kept == pytest.approx(36 / 3, rel=0.05)
    assert needed("head alone, kept", kept=True) < 0.001 * whole


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.device", "--backbone", "sam2_tiny", "--side", "32", "--images", "32"]
    command += ["--batch", "16", "--epochs", "3", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["kind"] for row in found["kinds"]] == [kind.name for kind in KINDS]
    for row in found["kinds"]:
        assert row["images_per_second"] > 0 and 0 < row["share_of_matrix_rate"] < 1
        assert sum(event["share"] for event in row["profile"]) > 0.5 and row["kind"] in done.stdout
