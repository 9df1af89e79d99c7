"""What `medtune status` says: every trial, how many there are in each state, and the best."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

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

NARROW = 100  # columns, below which parameters stand under their trial


def status_json(found: SearchFolder) -> str:
    """The search as JSON."""
    config, study = found.config(), found.study()
    direction = study.identity["direction"]
    winner = best(study.trials, direction)
    data = {
        "name": config.name,
        "folder": str(found.path),
        "metric": config.metric,
        "direction": direction,
        "ordered": config.budget.trials,
        "states": state_counts(study.trials),
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
        yield _table(study.trials, metric, winner, width, config.budget.epochs, alike)
    if alike:
        yield f"In all trials: {parameters_text(alike)}"
    counts = ", ".join(f"{n} {state}" for state, n in state_counts(study.trials).items()) or "none yet"
    yield f"{config.name}: {len(study.trials)} of {config.budget.trials} trials: {counts}"
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
        f"{trial.number:>4} {trial.state:<10} {trial.done:>3} epochs  {_value(trial, of_fold)}  "
        f"{trial.point['backbone']}, {what_is_trained(trial)}{_own(trial, alike)}"
        + (f"; {trial.cause}" if trial.cause else "")
    )


def _table(
    trials: Sequence[Trial], metric: str, winner: Trial | None, width: int, of_fold: int, alike: Collection[str]
) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", width=width)
    wide = width >= NARROW
    for column in ("trial", "state", "epochs", metric, "configuration" if wide else "configuration, cause"):
        right = column in ("trial", "epochs")
        last = column.startswith("configuration")
        table.add_column(column, justify="right" if right else "left", no_wrap=not last, ratio=3 if last else None)
    if wide:
        table.add_column("tried by, ended by", ratio=2)
    for trial in trials:
        name = Text(f"{trial.point['backbone']}, {what_is_trained(trial)}", style="bold" if trial is winner else "")
        configuration = name + Text(_own(trial, alike), style="dim")
        why = "; ".join(part for part in (origin(trial.why), trial.cause) if part)
        cells: list[str | Text] = [
            str(trial.number),
            Text(str(trial.state), style=STYLES[trial.state]),
            str(trial.done),
            _value(trial, of_fold),
        ]
        if wide:
            table.add_row(*cells, configuration, why)
        else:
            table.add_row(*cells, configuration + Text(f"; {why}"))
    return table


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
