"""Who goes on: whatever happens to trials in whatever order, what is kept sorted decides as the record does."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.record import Epoch, State, Trial
from search.rungs import Rungs, decide, rung_epochs, score
from spaces.config import Direction, StoppingConfig
from trainables.influence import TEMPERED

EPOCHS, STOPPING = 8, StoppingConfig()
VALUES = st.none() | st.sampled_from([0.1, 0.2, 0.3]) | st.floats(0, 1)


def by_hand(trials: list[Trial], number: int, epoch: int, direction: Direction) -> bool:
    """By the metric, with nothing kept from one decision to the next."""
    alive = (State.RUNNING, State.COMPLETE, State.PRUNED)
    blocks = trials[number].point["trained_blocks"]
    peers = [t for t in trials if epoch in t.epochs and t.point["trained_blocks"] == blocks and t.state in alive]
    sign = 1 if direction == "maximize" else -1

    def merit(trial: Trial) -> float:
        value = score(trial, epoch, EPOCHS)
        return -math.inf if value is None else sign * value

    if len(peers) < STOPPING.eta:
        return True
    last_in = sorted(peers, key=merit, reverse=True)[len(peers) // STOPPING.eta - 1]
    return merit(trials[number]) >= merit(last_in) - (last_in.epochs[epoch].standard_error or 0.0)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@settings(max_examples=20, deadline=None, database=None)
@given(data=st.data())
def test_sorted_rungs_decide_as_the_record_does(direction: Direction, tmp_path_factory: Any, data: Any) -> None:
    """At every report of a random search, with ends of all kinds and epochs told again, the decision is that of the
    record looked at afresh, cause and all, and by the metric also the one that is worked out by hand."""
    # Where the log loss decides if it can, though nothing was kept of its error; or by the metric alone.
    search = data.draw(st.sampled_from([None, tmp_path_factory.getbasetemp() / "no search"]))
    more: dict[str, Any] = {"epochs": EPOCHS, "stopping": STOPPING, "direction": direction, "search": search}
    trials: list[Trial] = []
    live = Rungs(trials, **more)
    for _ in range(data.draw(st.integers(4, 40))):
        running = [t for t in trials if not t.state.terminal and t.done < EPOCHS]
        if len(running) < 3 or data.draw(st.booleans()):
            blocks = data.draw(st.sampled_from([0, 0, "all"]))
            trials.append(Trial(len(trials), {"trained_blocks": blocks}, 0, "j", 0.0))
            running.append(trials[-1])
        trial = data.draw(st.sampled_from(running))
        if data.draw(st.integers(0, 9)) == 0:
            trial.state = data.draw(st.sampled_from([state for state in State if state.terminal]))
            live.ended(trial)
            continue
        for epoch in range(trial.done + 1, data.draw(st.integers(trial.done + 1, EPOCHS)) + 1):
            metrics = {TEMPERED: data.draw(st.floats(0, 1))} if data.draw(st.integers(0, 5)) else {}
            error = data.draw(st.sampled_from([None, 0.0, 0.05]))
            trial.epochs[epoch] = Epoch(epoch, data.draw(VALUES), error, 1.0, metrics, 1.0, 0.0)
            live.reached(trial, epoch)
            live.reached(trial, data.draw(st.integers(1, epoch)))  # told again
            decision = live.decide(trial, epoch)
            assert decision == decide(trials, trial.number, epoch, **more)
            if epoch in rung_epochs(EPOCHS, STOPPING) and search is None:
                assert decision.go_on == by_hand(trials, trial.number, epoch, direction)
            elif epoch not in rung_epochs(EPOCHS, STOPPING):
                assert decision.go_on
            if not decision.go_on:
                trial.state = State.PRUNED
                live.ended(trial)
                break
    for trial in trials:
        for epoch in trial.epochs:
            if trial.state in (State.RUNNING, State.COMPLETE, State.PRUNED):
                assert live.decide(trial, epoch) == decide(trials, trial.number, epoch, **more)
