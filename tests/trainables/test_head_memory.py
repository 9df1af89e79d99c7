"""What heads in one pass hold is known before they train."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spaces.config import TrialConfig
from spaces.dimensions import AnyDimension, Choice, Float, Space
from tests.trainables.digits import Digits
from trainables.data.manifest import Task
from trainables.head_member import Member
from trainables.head_memory import Held, different_targets, held
from trainables.head_passes import _batches, masses_of
from trainables.head_stack import HeadStack
from trainables.model import build_model
from trainables.outputs import Findings
from trainables.place import Place
from trainables.prefix import Prefix, views_looked_at

CUDA = Place(torch.device("cuda"))
AMPLE = 1 << 40


def of(
    configs: list[TrialConfig],
    images: tuple[int, int],
    budget: int = AMPLE,
    place: Place | None = None,
    different: int = 2,
) -> Held:
    return held(configs, len(configs), images, 10, "classification", budget, place or Place(), different)


def heads(digits: Digits, **changes: Any) -> list[TrialConfig]:
    return [digits.config(trained_blocks=0, seed=seed, **changes) for seed in range(3)]


def test_features_are_held_where_the_store_has_no_room(digits: Digits) -> None:
    configs = heads(digits, level=0)
    data = digits.data(configs[0])
    model, images = build_model(configs[0], 10), (len(data.train), len(data.validation))
    train, validation = (
        Prefix(model, configs[0], part, Place()).all_rows().host.nbytes for part in (data.train, data.validation)
    )
    stored = of(configs, images)
    assert of(configs, images, 0).host - stored.host == train + validation
    assert of(configs, images, train - 1).host - stored.host == train, "those of validation fit"
    assert of(configs, images, train).host == stored.host
    on_device = of(configs, images, 0, CUDA)
    assert on_device.host - of(configs, images, AMPLE, CUDA).host == (train + validation) // 2, "in bf16"
    assert of(configs, images, 0).device == 0 < on_device.device == of(configs, images, AMPLE, CUDA).device


def test_what_is_held_of_each_head_is_counted(digits: Digits) -> None:
    """At least what is known to be there: the stack with its moments and averages, its copy before a pass, targets, and
    a step's features."""
    configs = [*heads(digits), digits.config(trained_blocks=0, label_smoothing=0.1, mixup=0.2)]
    data = digits.data(configs[0])
    members = [Member(config, build_model(config, 10)) for config in configs]
    stack, (targets, _) = HeadStack(members, 4, torch.device("cpu")), masses_of(members, data)
    own = [tensor.nbytes for tensor in stack.state().values()]
    step = len(configs) * configs[0].batch_size * stack.weight.shape[1] * 4
    known = 2 * sum(own) + targets.nbytes + step
    assert known < of(configs, (len(data.train), len(data.validation))).host < 4 * known


@pytest.mark.parametrize(("uncertain", "different"), [("smooth", 8), ("ones", 1)])
def test_targets_and_orders_are_counted_at_their_most(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, uncertain: str, different: int
) -> None:
    """Of findings, which each head learns in its own way where uncertain ones are drawn: those that differ, and never
    more than one that is being made beside them; and the rows of an epoch's batches."""
    rows = 1000
    configs = [digits.config(trained_blocks=0, seed=seed, uncertain=uncertain) for seed in range(8)]
    small = digits.data(configs[0])
    labels = torch.tensor([0.0, 1.0, -1.0]).repeat(rows, 1)
    data = replace(small, train=replace(small.train, labels=labels), classes=("a", "b", "c"), task="multilabel")
    members = [Member(config, build_model(config, 3, "multilabel")) for config in configs]
    masses, there, most = Findings.masses, list[int](), list[int]()

    def counted(self: Findings, labels: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        found = masses(self, labels, names)
        there.append(found.nbytes)
        most.append(sum(there))
        weakref.finalize(found, there.pop)
        return found

    monkeypatch.setattr(Findings, "masses", counted)
    targets, which = masses_of(members, data)
    assert len(targets) == different and max(most) == targets[0].nbytes
    for member, number in zip(members, which.tolist(), strict=True):
        assert torch.equal(targets[number], masses(member.model.output, labels, data.classes))
    tracemalloc.start()
    _batches(configs, 0, np.zeros(rows, np.int64))
    _, of_orders = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    none, some = (held(configs, 8, (n, 0), 3, "multilabel", AMPLE, Place(), different).host for n in (0, rows))
    most_held = targets.nbytes + max(most) + of_orders
    assert most_held <= some - none < 2 * most_held


@pytest.mark.parametrize(
    ("dimensions", "task", "different"),
    [
        ([], "multilabel", 1),
        (
            [Choice(name="label_smoothing", choices=(0.0, 0.1)), Choice(name="blank", choices=("zeros", "ignore"))],
            "multilabel",
            4,
        ),
        ([Choice(name="class_weights", choices=("none", "inverse", "effective"))], "ordinal", 3),
        ([Choice(name="uncertain", choices=("zeros", "smooth"))], "multilabel", 64),
        ([Choice(name="label_smoothing", choices=tuple(n / 100 for n in range(80)))], "classification", 64),
        ([Float(name="label_smoothing", low=0.0, high=0.2)], "classification", 64),
    ],
)
def test_targets_that_differ(dimensions: list[AnyDimension], task: Task, different: int) -> None:
    """At the most, in a job of 64 heads: as many as the space offers, whatever was drawn of it."""
    assert different_targets(Space(dimensions=tuple(dimensions)), 64, task) == different


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({"level": 0}, 1),
        ({"level": 1}, 8),
        ({"level": 1, "views": 3}, 3),
        ({"level": 1, "views": 9}, 8),
        ({"level": 1, "policy": "none"}, 1),
    ],
)
def test_views_that_a_trial_looks_at(digits: Digits, changes: dict[str, Any], views: int) -> None:
    """All of them, in whatever turn, have to fit the store for any to be kept."""
    config = digits.config(trained_blocks=0, epochs=8, **changes)
    assert views_looked_at(config) == views
    each = 1000 * build_model(config, 10).backbone.spec.width * 4
    with_room, without = (of([config], (1000, 0), budget).host for budget in (views * each, views * each - 1))
    assert without - with_room == each, "one at a time"
