"""What needs as much memory as a trial that ran out of it isn't tried."""

from typing import Any

import pytest
import torch

from search.memory import needs_as_much, ran_out_of_memory
from search.record import State, Trial
from search.sampler import Exhausted, Sampler
from spaces.dimensions import Choice, Float, Point, Space
from trainables.causes import end_of

SPACE = Space(
    dimensions=(
        Choice(name="trained_blocks", choices=(0, 2, "all")),
        Choice(name="batch_size", choices=(32, 64, 128)),
        Float(name="head_lr", low=1e-4, high=1e-1, log=True),
    ),
    fixed={"backbone": "mae_tiny", "resolution": 56, "head": "linear"},
)
LARGE: Point = {"backbone": "mae_tiny", "resolution": 112, "trained_blocks": 2, "batch_size": 64, "ema": 0.0}


def short(number: int, point: Point) -> Trial:
    """A trial that ran out of memory."""
    told = end_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert told is not None
    return Trial(number, point, 0, "j", 0.0, state=State(told.state), cause=told.cause)


@pytest.mark.parametrize(
    ("change", "as_much"),
    [
        ({}, True),
        ({"batch_size": 128}, True),
        ({"batch_size": 32}, False),
        ({"trained_blocks": "all"}, True),
        ({"trained_blocks": 0}, False),
        ({"resolution": "224x112"}, True),
        ({"resolution": "112x96"}, False),
        ({"ema": 0.1, "head_lr": 0.01}, True),
        ({"backbone": "dinov2_tiny", "batch_size": 128}, False),
        ({"grad_checkpointing": True, "batch_size": 128}, False),
        ({"adapter": "lora", "batch_size": 128}, False),
    ],
)
def test_what_needs_as_much(change: dict[str, Any], as_much: bool) -> None:
    assert needs_as_much({**LARGE, **change}, LARGE) is as_much


def test_causes_of_either_memory_are_known() -> None:
    assert ran_out_of_memory(short(0, LARGE))
    host = end_of(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"))
    assert host is not None and ran_out_of_memory(Trial(0, LARGE, 0, "j", 0.0, "", State(host.state), host.cause))
    assert not ran_out_of_memory(Trial(0, LARGE, 0, "j", 0.0, "", State.INFEASIBLE, "a batch of 2 on 3 workers"))
    assert not ran_out_of_memory(Trial(0, LARGE, 0, "j", 0.0, "", State.FAILED, "out of this machine's memory"))


@pytest.mark.parametrize("kind", ["tpe", "random"])
@pytest.mark.parametrize("known_before", [False, True])
def test_nothing_as_large_is_asked_for(kind: str, known_before: bool) -> None:
    """Nor after a resume, which asks what would have been asked."""
    trials: list[Trial] = []
    asker = Sampler(SPACE, "maximize", 0, kind, trials)
    point = asker.ask(0)
    trials.append(short(0, {**point, "trained_blocks": 2, "batch_size": 64}))
    asker = Sampler(SPACE, "maximize", 0, kind, trials)
    for number in range(1, 30):
        if known_before:
            asker = Sampler(SPACE, "maximize", 0, kind, trials)
        point = asker.ask(number)
        assert point["trained_blocks"] == 0 or point["batch_size"] == 32, "the others need as much"
        value = float(str(point["batch_size"]))  # the larger the better: what a sampler then likes is too large
        trial = Trial(number, point, 0, "j", 0.0, state=State.COMPLETE, value=value)
        trials.append(trial)
        asker.end(trial)
    assert {t.point["trained_blocks"] for t in trials[1:]} == {0, 2, "all"}


def test_a_search_ends_where_all_that_is_left_is_too_large() -> None:
    smallest = SPACE.complete({"trained_blocks": 0, "batch_size": 32})
    asker = Sampler(SPACE, "maximize", 0, "tpe", [short(0, smallest)])
    with pytest.raises(Exhausted, match="or needs as much memory as one that ran out of it"):
        asker.ask(1)
