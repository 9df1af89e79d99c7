"""What heads in one pass hold is known before they train."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spaces.config import TrialConfig
from tests.trainables.digits import Digits
from trainables.head_member import Member
from trainables.head_memory import Held, held
from trainables.head_passes import masses_of
from trainables.head_stack import HeadStack
from trainables.model import build_model
from trainables.place import Place
from trainables.prefix import Prefix, views_looked_at

CUDA = Place(torch.device("cuda"))
AMPLE = 1 << 40


def of(configs: list[TrialConfig], images: tuple[int, int], budget: int = AMPLE, place: Place | None = None) -> Held:
    return held(configs, len(configs), images, 10, "classification", budget, place or Place())


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
