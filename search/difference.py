"""What differs between two searches: settings, data, split, code, versions, space, results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from search.folder import SearchFolder
from search.identity import flatten
from search.record import State, best
from search.trial_text import describe_best, state_counts, value_text
from spaces.library import assemble
from spaces.words import written

LEFT_OUT = {"name", "storage", "cache", "checkpoints"}  # differ in any two searches, and say nothing


@dataclass(frozen=True)
class Difference:
    """One thing that differs."""

    part: str
    """settings, data, split, code, versions, space or results."""
    what: str
    first: str
    second: str


def difference(first: SearchFolder, second: SearchFolder) -> list[Difference]:
    """Everything that differs, part by part; nothing where a search is compared with itself.

    Raises:
        Mistake: one of them can't be read.
    """
    found: list[Difference] = []
    for part, one, other in zip(_PARTS, _facts(first), _facts(second), strict=True):
        for what in dict.fromkeys([*one, *other]):
            a, b = one.get(what, ABSENT), other.get(what, ABSENT)
            if a != b:
                found.append(Difference(part, what, a, b))
    return found


ABSENT = "-"
_PARTS = ("settings", "data", "split", "code", "versions", "space", "results")


def _facts(found: SearchFolder) -> list[Mapping[str, str]]:
    """What a search is, as text by name, in the order of the parts."""
    config, study = found.config(), found.study()
    identity = study.identity
    settings = {key: _shown(value) for key, value in flatten(config.plain()).items() if key not in LEFT_OUT}
    settings = {key: value for key, value in settings.items() if not key.startswith("space.")}
    counts = {f"{part} images": str(sum(of_class.values())) for part, of_class in identity.get("counts", {}).items()}
    return [
        settings,
        {"digest": identity["data"][:12], **counts},
        {"digest": identity["split"][:12], "test groups": identity["test"][:12]},
        {"digest": identity["code"][:12], **{f"weights of {n}": w for n, w in identity["weights"].items()}},
        dict(identity["versions"]),
        assemble(config).described(),
        _results(found),
    ]


def _results(found: SearchFolder) -> dict[str, str]:
    config, study = found.config(), found.study()
    direction, metric = study.identity["direction"], str(study.identity["metric"])
    rows = {"metric": metric, "trials": str(len(study.trials))}
    rows |= {f"trials {state}": str(count) for state, count in state_counts(study.trials).items()}
    winner = best(study.trials, direction)
    rows["best"] = describe_best(winner, metric, config.budget.epochs) if winner else "none yet"
    for name in config.backbones:
        own = best([t for t in study.trials if t.point["backbone"] == name], direction)
        if own and own.state is State.COMPLETE:
            rows[f"best of {name}"] = value_text(own, metric, config.budget.epochs)
    return rows


def _shown(value: Any) -> str:
    return ABSENT if value is None or value in ([], {}) else written(value)


def table(differences: list[Difference], first: str, second: str) -> Table:
    """For a terminal."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("part", "what", first, second):
        shown.add_column(column, overflow="fold")
    before = ""
    for one in differences:
        shown.add_row(one.part if one.part != before else "", one.what, one.first, one.second)
        before = one.part
    return shown
