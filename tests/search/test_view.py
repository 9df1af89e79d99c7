"""What a terminal shows of a running search: in narrow and wide windows, in pipes, and in status."""

import io
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console

from search.console import Console
from search.record import Epoch, State, Trial
from search.status import _line
from search.trial_text import describe_best, same_in_all, value_interval, value_text
from search.view import View
from spaces.config import SearchConfig

CONFIG = SearchConfig.parse(
    {
        "name": "digits",
        "dataset": {"reader": "folder", "root": "x"},
        "backbones": ["dinov2_tiny", "timm/convnext_tiny.in12k"],
        "budget": {"trials": 40, "epochs": 20},
        "metric": "balanced_accuracy",
        "direction": "maximize",
    },
    "here",
)


def trials() -> list[Trial]:
    """Twelve that ended, complete, pruned or failed in turn, and two that run."""
    made = []
    for number in range(14):
        state = (State.COMPLETE, State.PRUNED, State.FAILED)[number % 3] if number < 12 else State.RUNNING
        done = 20 if state is State.COMPLETE else 5 if number < 12 else 6
        epochs = {e: Epoch(e, 0.5 + 0.02 * e + number / 1000, 0.02, 0.3, {}, 1.0, 0.0) for e in range(1, done + 1)}
        point = {
            "backbone": CONFIG.backbones[number % 2],
            "trained_blocks": (0, 2, "all")[number % 3],
            "head": "attentive",
            "head_lr": 1e-3,
            "level": 1,
        }
        value = epochs[done].value if state is State.COMPLETE else None
        why = "first configurations" if number < 5 else "tpe"
        cause = "" if state is not State.FAILED else "the loss was nan at step 2"
        made.append(Trial(number, point, number, "job", 0.0, why, state, cause, value, None, epochs))
    return made


def window(width: int, height: int, found: list[Trial]) -> list[str]:
    console = Console(io.StringIO())
    console.rich = rich.console.Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    console.live = True
    driver: Any = SimpleNamespace(config=CONFIG, direction="maximize", study=SimpleNamespace(trials=found))
    view = View(driver, console)
    view.before, view.started = set(), time.monotonic() - 120
    console.rich.print(view.render())
    assert isinstance(console.rich.file, io.StringIO)
    return console.rich.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "shown", "hidden"),
    [
        (200, ("tried by", "next rung", "head lr", "sampler (TPE)", "augment"), ()),
        (120, ("backbone", "trained", "head lr", "timm/convnext_tiny.in12k"), ("augment",)),
        (80, ("backbone", "epochs", "state"), ("head lr", "tried by")),
        (60, ("trial", "epochs", "state", "running"), ("backbone", "tried by")),
    ],
)
def test_windows(width: int, shown: tuple[str, ...], hidden: tuple[str, ...]) -> None:
    """As many columns as there is room for, none cut; the best with its interval and the time left in all of them."""
    lines = window(width, 40, trials())
    text = " ".join(" ".join(lines).split())
    assert all(len(line) <= width for line in lines) and "…" not in text
    table = " ".join(lines[: -4 if width >= 120 else -5])
    assert all(word in table for word in shown) and not any(word in table for word in hidden)
    assert "12 of 40 trials" in text and "about" in text and "left" in text
    assert "2 running, 4 complete, 4 pruned, 4 failed" in text
    assert "Best so far: trial 9, timm/convnext_tiny.in12k, head only: balanced_accuracy 0.9090 [0.86" in text


@pytest.mark.parametrize("width", range(60, 200, 7))
def test_no_width_cuts_a_column(width: int) -> None:
    assert "…" not in " ".join(window(width, 40, trials()))


def test_a_low_window_keeps_what_runs() -> None:
    lines = window(120, 14, trials())
    assert len(lines) <= 14
    assert sum("running" in line for line in lines if "/20" in line) == 2


def test_nothing_has_run_yet() -> None:
    text = " ".join(window(100, 40, []))
    assert "no trial yet" in text and "no complete trial yet" in text and "0 of 40 trials" in text


def test_an_interval_stays_within_the_metrics_range() -> None:
    found = trials()[0]
    found.value = 0.995
    ends = value_interval(found, "balanced_accuracy", 20)
    assert ends is not None and 0 < ends[0] < 0.995 < ends[1] < 1
    found.value = 1.0
    assert value_interval(found, "balanced_accuracy", 20) is None


def test_a_value_without_an_interval_says_why() -> None:
    """A standard error of 0 comes of few groups: nothing is told as certain."""
    found = trials()[0]
    last = found.epochs[20]

    def told(value: float, error: float | None, metric: str = "balanced_accuracy") -> str:
        found.value, found.epochs[20] = value, replace(last, standard_error=error)
        return value_text(found, metric, 20)

    assert told(0.9, 0.02).startswith("0.9000 [0.85")
    for value, error in ((1.0, 0.0), (1.0, 0.02), (1.0, None)):
        assert told(value, error) == "1.0000 (no interval: it is the highest value there is)"
    assert told(-1.0, 0.0, "quadratic_weighted_kappa") == "-1.0000 (no interval: it is the lowest value there is)"
    assert told(0.9, 0.0) == "0.9000 (no interval: leaving out any group makes no difference)"
    assert told(0.9, None) == "0.9000 (no interval: its standard error isn't known)"
    told(1.0, 0.0)
    assert "1.0000 (no interval: it is the highest value there is) on validation" in describe_best(
        found, "accuracy", 20
    )


def test_a_pipe_has_a_plain_line_for_each_trial() -> None:
    stream = io.StringIO()
    console, found = Console(stream), trials()
    driver: Any = SimpleNamespace(config=CONFIG, direction="maximize", study=SimpleNamespace(trials=[]))
    view = View(driver, console)
    driver.study.trials = found
    with view:
        pass
    lines = stream.getvalue().splitlines()
    assert len(lines) == 12 and "\x1b" not in stream.getvalue()
    assert lines[2].startswith("trial 2: failed after 5 epochs") and "the loss was nan at step 2" in lines[2]
    assert "balanced_accuracy 0.9000 [0.85" in lines[0] and "of 40 trials" in lines[0]
    assert _line(found[1], 20, ()).split()[:4] == ["1", "pruned", "5", "epochs"]


def test_what_is_told_when_a_search_goes_on() -> None:
    """Where it lies, which weights are RANDOM, and the licences of the others, as when it began."""
    weights = {"dinov2_tiny": "random", "mae_base": "pretrained"}
    config = SearchConfig.parse({**CONFIG.plain(), "backbones": list(weights), "weights": weights}, "here")
    plan: Any = SimpleNamespace(config=config)
    stream = io.StringIO()
    Console(stream).goes_on(plan, Path("runs/digits"), trials())
    assert stream.getvalue().splitlines() == [
        "Search digits goes on: 14 of 40 trials in its record, 2 unfinished",
        "Folder runs/digits, log runs/digits/log.txt",
        "Weights of dinov2_tiny are RANDOM: this shows how a search runs, not what a trained backbone can do.",
        "Licences of the weights: mae_base CC-BY-NC-4.0 (no commercial use)",
    ]


def test_what_all_trials_have_alike_is_said_once() -> None:
    found = trials()
    for number, trial in enumerate(found):
        trial.point.update(batch_size=32, level=number % 2)
    alike = same_in_all(found)
    assert alike["batch_size"] == 32 and not {"level", "backbone", "trained_blocks"} & set(alike)
    assert "level 1" in _line(found[1], 20, alike) and "batch_size" not in _line(found[1], 20, alike)
    del found[0].point["batch_size"]
    assert "batch_size" not in same_in_all(found), "one of them hasn't got it"
    assert same_in_all(found[:1]) == {}, "of one trial everything is its own"
