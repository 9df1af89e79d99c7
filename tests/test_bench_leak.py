"""The experiment on leaks, in miniature: its arms, its interval, and the simulated leak that it must find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.leak import Pair, inflation, main, replicate
from spaces.config import DatasetConfig
from spaces.mistakes import Mistake
from tests.trainables.data.leaking import write_leaking
from trainables.data.manifest import Manifest
from trainables.data.prepared import prepare

SETTINGS = """\
name: leak
dataset: {reader: isic2019, root: isic, policy: none, options: {near_duplicates: ignore}}
backbones: [mae_tiny]
weights: random
space: {resolution: 32, head: linear, trained_blocks: 0, head_lr: 0.1, batch_size: 16, level: 0, sampling: natural}
budget: {trials: 1, epochs: 4}
metric: accuracy
mlflow: off
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("leak")
    write_leaking(folder / "isic", lesions=64)
    (folder / "search.yaml").write_text(SETTINGS + f"storage: {folder / 'runs'}\n")
    return folder


@pytest.fixture(scope="module")
def manifest(home: Path) -> Manifest:
    return prepare(DatasetConfig(reader="isic2019", root=str(home / "isic")), home / "cache", None).manifest


@pytest.mark.parametrize("seed", range(5))
def test_arms(manifest: Manifest, seed: int) -> None:
    arms = replicate(manifest, seed, 0.2)
    test, clean, leaking = (manifest.groups[rows] for rows in (arms.test, arms.clean, arms.leaking))
    assert len(np.unique(test)) == len(test), "one image of each lesion"
    assert not np.isin(clean, test).any()
    siblings = ~np.isin(arms.leaking, arms.clean)
    assert np.isin(leaking[siblings], test).all() and siblings.sum() == arms.exchanged > len(test)
    assert not np.isin(arms.leaking, arms.test).any() and len(np.unique(arms.leaking)) == len(arms.clean)
    labels = manifest.labels
    assert np.array_equal(np.bincount(labels[arms.leaking]), np.bincount(labels[arms.clean]))
    assert np.array_equal(replicate(manifest, seed, 0.2).leaking, arms.leaking)
    assert not np.array_equal(replicate(manifest, seed + 1, 0.2).test, arms.test)


def test_siblings_without_an_image_of_their_label_stay_out(manifest: Manifest) -> None:
    rare = manifest.take(np.argsort(manifest.groups, kind="stable"))
    alone = np.unique(rare.groups)[:3]
    rows = np.flatnonzero((rare.labels == rare.labels[0]) & ~np.isin(rare.groups, alone))
    few = rare.take(np.setdiff1d(np.arange(len(rare)), rows[len(rows) // 3 :]))
    arms = replicate(few, 0, 0.2)
    assert len(arms.leaking) == len(arms.clean)
    assert np.array_equal(np.bincount(few.labels[arms.leaking]), np.bincount(few.labels[arms.clean]))


def test_nothing_to_leak(manifest: Manifest) -> None:
    alone = manifest.take(np.unique(manifest.groups, return_index=True)[1])
    with pytest.raises(Mistake, match="no group of this dataset has two units"):
        replicate(alone, 0, 0.2)


def test_corrected_interval() -> None:
    pairs = [Pair(0.5, 0.5 + d, 10, 20, 80) for d in (0.1, 0.2, 0.3)]
    found = inflation(pairs)
    assert found.mean == pytest.approx(0.2)
    reach = 4.302653 * np.sqrt((1 / 3 + 20 / 80) * 0.01)
    assert (found.low, found.high) == pytest.approx((0.2 - reach, 0.2 + reach))


def test_a_leak_is_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(home / "search.yaml"), "--json", str(home / "found.json")]) == 0
    found = json.loads((home / "found.json").read_text())
    assert len(found["pairs"]) == 10 and found["low"] > 0.3 < found["mean"]
    clean = np.mean([pair["clean"] for pair in found["pairs"]])
    assert 0.02 < clean < 0.25, "of eight classes that can't be learned"
    assert "A leak inflates by +0." in capsys.readouterr().out


def test_mistakes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(home / "search.yaml"), "--replicates", "3"]) == 2
    assert main([str(home / "search.yaml"), "--set", "protocol=paper"]) == 2
    told = capsys.readouterr().err
    assert "expected at least 10" in told and "leave protocol out" in told
