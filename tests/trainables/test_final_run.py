"""One run of a final, from prepared data to a model; kept only for the very same order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spaces.config import DatasetConfig, TrialConfig
from tests.trainables.digits import Digits
from trainables import final_run
from trainables.data.prepared import Prepared, prepare
from trainables.epoch import EpochReport
from trainables.final_run import MODEL, RESULT, RunOrder, finished, run, run_data
from trainables.inference import predict
from trainables.loop import Outcome, fine_tune
from trainables.metrics import compute
from trainables.model_folder import load_model
from trainables.place import Place
from trainables.resident import RESIDENT, SHARE


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def order(digits: Digits, tmp_path: Path) -> RunOrder:
    config = digits.config(epochs=2, trained_blocks=0, level=1)
    return RunOrder(
        folder=str(tmp_path / "run"),
        config=config.plain(),
        dataset=digits.dataset.plain(),
        prepared=str(digits.prepared),
        cache=str(digits.cache),
        fit="train",
        threads=1,
        accelerators=0,
    )


def with_config(order: RunOrder, **changes: Any) -> RunOrder:
    return replace(order, config={**order.config, **changes})


def test_a_run_leaves_a_result_and_a_model(order: RunOrder, digits: Digits) -> None:
    assert finished(order) is None
    epochs: list[int] = []
    run(order, Place(), lambda report: epochs.append(report.epoch))
    assert epochs == [1, 2]
    result = finished(order)
    assert result is not None
    values = [epoch["value"] for epoch in result["epochs"]]
    assert result["validation"] == np.mean(values) and result["seed"] == 3 and result["fit"] == "train"
    validation = digits.data(TrialConfig.model_validate(order.config)).validation
    trained = load_model(Path(order.folder) / MODEL)
    probabilities = predict(trained.model, trained.config, validation)
    assert values[-1] == compute("balanced_accuracy", validation.labels.numpy(), probabilities, 10)
    text = (Path(order.folder) / RESULT).read_text() + (Path(order.folder) / MODEL / "model.json").read_text()
    assert str(digits.folder) not in text and order.folder not in text


def test_a_run_has_its_share_of_the_accelerator_whatever_one_before_it_needed(
    order: RunOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RESIDENT, "share", 0.01)  # as after a run that ran out of memory
    shares: list[float] = []

    def training(*given: Any, **more: Any) -> Outcome:
        shares.append(RESIDENT.share)
        return fine_tune(*given, **more)

    monkeypatch.setattr(final_run, "fine_tune", training)
    for accelerators in (0, 1, 0.5):
        run(replace(order, folder=str(tmp_path / f"{accelerators}"), accelerators=accelerators), Place())
        RESIDENT.share /= 4
    assert shares == [SHARE, SHARE, SHARE / 2]


def test_finished_for_the_same_order_only(order: RunOrder, digits: Digits, tmp_path: Path) -> None:
    run(order, Place())
    assert finished(order) == finished(replace(order, threads=2, cache=str(tmp_path / "other")))
    moved = {**order.dataset, "root": "/somewhere/else"}
    assert finished(replace(order, dataset=moved)) is not None, "the same data at another place"
    others = [
        with_config(order, seed=4),
        with_config(order, head_lr=0.01),
        with_config(order, weights="/a/file.pth"),
        replace(order, fit="all"),
        replace(order, dataset={**order.dataset, "fit": "pad"}),
        replace(order, folder=str(tmp_path / "nowhere")),
    ]
    split_otherwise = {**order.dataset, "split": {**order.dataset["split"], "seed": 1}}
    prepare(DatasetConfig.model_validate(split_otherwise), digits.cache, None).save(tmp_path / "data")
    others.append(replace(order, prepared=str(tmp_path / "data")))
    assert [finished(other) for other in others] == [None] * len(others)


def test_two_weights_files_are_two_orders(order: RunOrder) -> None:
    run(order, Place())
    path = Path(order.folder) / RESULT
    result = json.loads(path.read_text())
    assert result["config"]["weights"] == "random"
    first, second = with_config(order, weights="/a/file.pth"), with_config(order, weights="/b/file.pth")
    from trainables.final_run import _order_digest

    assert _order_digest(first) != _order_digest(second)


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"order": 1}'])
def test_a_damaged_result_is_none(order: RunOrder, damage: str) -> None:
    run(order, Place())
    (Path(order.folder) / RESULT).write_text(damage)
    assert finished(order) is None


def test_a_result_without_its_model_is_none(order: RunOrder) -> None:
    run(order, Place())
    (Path(order.folder) / MODEL).rename(Path(order.folder) / "elsewhere")
    assert finished(order) is None


def test_an_interrupted_run_goes_on(order: RunOrder, tmp_path: Path) -> None:
    told: list[EpochReport] = []

    def stop(report: EpochReport) -> None:
        told.append(report)
        raise Killed

    with pytest.raises(Killed):
        run(order, Place(), stop)
    assert finished(order) is None
    again: list[EpochReport] = []
    run(order, Place(), again.append)
    assert [report.epoch for report in again] == [1, 2]
    assert again[0] == told[0], "its time says that the first epoch wasn't trained again"
    whole = replace(order, folder=str(tmp_path / "whole"))
    run(whole, Place())
    resumed, uninterrupted = finished(order), finished(whole)
    assert resumed is not None and uninterrupted is not None
    assert resumed["validation"] == uninterrupted["validation"]
    weights = [(Path(o.folder) / MODEL / "model.safetensors").read_bytes() for o in (order, whole)]
    assert weights[0] == weights[1]


def test_fit_all_learns_from_both_and_from_no_checkpoint_of_fit_train(order: RunOrder, digits: Digits) -> None:
    both = replace(order, fit="all")
    config, prepared = TrialConfig.model_validate(order.config), Prepared.load(digits.prepared)
    data = run_data(both, config)
    assert len(data.train) == len(prepared.train) + len(prepared.validation) == len(prepared.manifest)
    assert data.train.labels.tolist() == prepared.manifest.labels.tolist()
    assert len(run_data(order, config).train) == len(prepared.train)
    run(order, Place())
    epochs: list[int] = []
    run(both, Place(), lambda report: epochs.append(report.epoch))
    assert epochs == [1, 2]
    result = finished(both)
    assert result is not None and result["validation"] is None, "what was learned from can't be validated on"
    assert finished(order) is None
