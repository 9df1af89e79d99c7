"""What `medtune status` says: every trial, how many there are in each state, and the best."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from search.ending import early_ending
from search.folder import SearchFolder
from search.record import State, Trial, best
from search.trial_text import (
    SAID,
    describe_best,
    origin,
    parameters_text,
    same_in_all,
    state_counts,
    trial_rows,
    value_interval,
    what_is_trained,
)
from search.view import STYLES
from spaces.words import counted

NARROW = 120  # columns, below which parameters stand under their trial
UNDER = 7  # blanks before what stands there


def status_json(found: SearchFolder) -> str:
    """The search as JSON."""
    config, study = found.config(), found.study()
    direction = study.identity["direction"]
    winner = best(study.trials, direction)
    ending = early_ending(found.path, study.trials, config.budget.trials)
    data = {
        "name": config.name,
        "folder": str(found.path),
        "metric": config.metric,
        "direction": direction,
        "ordered": config.budget.trials,
        "states": state_counts(study.trials),
        "ended_early": ending.text if ending else None,
        "best": winner.number if winner else None,
        "trials": trial_rows(study.trials, config.budget.epochs),
    }
    return json.dumps(data, indent=1)


def status_lines(found: SearchFolder, width: int | None) -> Iterator[RenderableType]:
    """For people.

    Args:
        width: of the terminal; None where there is none, and each trial is one line of plain text.
    """
    config, study = found.config(), found.study()
    metric = str(config.metric)
    winner = best(study.trials, study.identity["direction"])
    alike = same_in_all(study.trials)
    if width is None:
        yield from (_line(trial, config.budget.epochs, alike) for trial in study.trials)
    elif study.trials:
        shown = _table if width >= NARROW else _under_each_other
        yield shown(study.trials, metric, winner, width, config.budget.epochs, alike)
    if alike:
        yield f"In all trials: {parameters_text(alike)}"
    counts = ", ".join(f"{n} {state}" for state, n in state_counts(study.trials).items()) or "none yet"
    yield f"{config.name}: {len(study.trials)} of {counted(config.budget.trials, 'trial')}: {counts}"
    if ending := early_ending(found.path, study.trials, config.budget.trials):
        yield f"Ended early: {ending.text}"
    yield f"Best: {describe_best(winner, metric, config.budget.epochs)}" if winner else "No complete trial yet."
    if winner and value_interval(winner, metric, config.budget.epochs):
        yield (
            "In brackets the 95% interval, after ± the standard error, over groups; they don't know that it is the "
            "best of several: medtune report does."
        )
    elif winner:
        yield "It is the best of several, and too good on average: medtune report tells more."
    yield f"Log: {found.log}"


def _line(trial: Trial, of_fold: int, alike: Collection[str]) -> str:
    return (
        f"{trial.number:>4} {trial.state:<10} {counted(trial.done, 'epoch'):>10}  {_value(trial, of_fold)}  "
        f"{trial.point['backbone']}, {what_is_trained(trial)}{_own(trial, alike)}"
        + (f"; {trial.cause}" if trial.cause else "")
    )


def _table(
    trials: Sequence[Trial], metric: str, winner: Trial | None, width: int, of_fold: int, alike: Collection[str]
) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", width=width)
    for column in ("trial", "state", "epochs", metric):
        table.add_column(column, justify="right" if column in ("trial", "epochs") else "left", no_wrap=True)
    table.add_column("configuration", ratio=3)
    table.add_column("tried by, ended by", ratio=2)
    for trial in trials:
        state = Text(str(trial.state), style=STYLES[trial.state])
        configuration = _configuration(trial, winner, alike)
        table.add_row(str(trial.number), state, str(trial.done), _value(trial, of_fold), configuration, _why(trial))
    return table


def _under_each_other(
    trials: Sequence[Trial], metric: str, winner: Trial | None, width: int, of_fold: int, alike: Collection[str]
) -> RenderableType:
    """For a narrow window: a line for each trial, its configuration and cause indented below."""
    head = Text(f"{'trial':>5}  {'state':<10}  {'epochs':>6}  {metric}", style="bold")
    parts: list[RenderableType] = [head]
    for trial in trials:
        state = Text(f"{trial.state:<10}", style=STYLES[trial.state])
        parts.append(Text(f"{trial.number:>5}  ") + state + Text(f"  {trial.done:>6}  {_value(trial, of_fold)}"))
        below = _configuration(trial, winner, alike) + Text(f"; {why}" if (why := _why(trial)) else "")
        parts.append(Padding(below, (0, 0, 0, min(UNDER, width // 4))))
    return Group(*parts)


def _configuration(trial: Trial, winner: Trial | None, alike: Collection[str]) -> Text:
    name = Text(f"{trial.point['backbone']}, {what_is_trained(trial)}", style="bold" if trial is winner else "")
    return name + Text(_own(trial, alike), style="dim")


def _why(trial: Trial) -> str:
    return "; ".join(part for part in (origin(trial.why), trial.cause) if part)


def _value(trial: Trial, of_fold: int) -> str:
    if trial.value is not None:
        error = trial.standard_error(of_fold)
        return f"{trial.value:.4f}" + (f" ± {error:.4f}" if error else "")
    values, running = trial.values(), trial.state is State.RUNNING
    if not values:
        return "no value yet" if running else "none"
    return f"{values[-1]:.4f} {'so far' if running else 'at its end'}"


def _own(trial: Trial, alike: Collection[str]) -> str:
    """What a trial's configuration has besides what all have."""
    own = {name: value for name, value in trial.point.items() if name not in (*SAID, *alike)}
    return f"; {parameters_text(own)}" if own else ""
