"""The benchmarks run, at a tiny setting, and measure what they say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.backbones import BACKBONES, VARIANTS, compiled_blocks, ours, per_step
from spaces.backbone import backbone
from trainables.backbones.scan import linear_scan

ROOT = Path(__file__).parents[1]


def measured(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.backbones", "--batch", "2", "--repeats", "1", "--seconds", "0"]
    done = subprocess.run(
        [*command, *arguments, "--json", folder / "found.json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def test_speed_and_memory_of_every_family(tmp_path: Path) -> None:
    found = measured(tmp_path, "--size", "tiny")
    assert [row["backbone"] for row in found["speed"]] == BACKBONES["tiny"]
    assert all(row[part][of] > 0 for row in found["speed"] for part in ("forward", "training") for of in row[part])
    for row in found["memory"]:
        kept = row["bytes"]
        assert 0 < kept["0"] < kept["1"] < kept["2"] < kept["all"], row
        assert kept["half"] < kept["all"], row


def test_vmamba_against_vit(tmp_path: Path) -> None:
    found = measured(tmp_path, "--vmamba", "--side", "32")["against_vit"]
    assert found["times_slower"] > 0 and found["side"] == 32


def test_variants_of_training(tmp_path: Path) -> None:
    found = measured(tmp_path, "--variants", "--size", "tiny", "--backbones", "mae_tiny")["variants"]
    assert [row["variant"] for row in found] == list(VARIANTS)
    assert all(row["first_step_seconds"] > 0 and row["ratio"] > 0 for row in found)


def test_every_block_is_compiled_and_nothing_else() -> None:
    model, images = ours("mae_tiny", (32, 32)), torch.rand(1, 3, 32, 32)
    compiled_blocks(model, images)
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert compiled == {f"backbone.trunk.blocks.{number}" for number in range(backbone("mae_tiny").blocks)}


def test_both_sizes_are_of_the_same_families() -> None:
    families = [[backbone(name).family for name in names] for names in BACKBONES.values()]
    assert families[0] == families[1] and len(set(families[0])) == 7


def test_the_plain_scan_is_the_same_recurrence() -> None:
    a, b = torch.rand(3, 70, 5), torch.randn(3, 70, 5)
    assert (per_step(a, b) - linear_scan(a, b)).abs().max() < 1e-5
