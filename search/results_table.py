"""Everything that searches found as one CSV table, to be read by a spreadsheet or pandas: a row for each trial, and one
for each configuration of a final, with its interval on the test set."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from search.disclosure import public_cause, public_label, public_parameter
from search.final_result import finals
from search.folder import SearchFolder
from search.spent import devices
from search.trial_text import LEVEL, value_interval

COLUMNS = (
    "kind", "search", "dataset", "part", "labels_from", "metric", "backbone", "trial", "state", "cause", "value",
    "standard_error", "low", "high", "interval_level", "epochs", "seeds", "device_hours",
)  # fmt: skip
"""Before the parameters of trials, a column each. `kind` is trial or final; `part` is what the value is measured on,
`labels_from` who labelled it, where the dataset says: values against labels of two sources don't belong together;
`interval_level` that of the interval from `low` to `high` (a trial's own `level` is that of augmentation)."""


def results_table(searches: Sequence[SearchFolder]) -> str:
    """The table as CSV. Causes are shortened to what may leave the machine, values that look like paths withheld.

    Raises:
        Mistake: a search or a final that can't be read.
    """
    rows: list[dict[str, Any]] = []
    for found in searches:
        identity = found.study().identity
        common = {
            "search": found.config().name,
            "dataset": f"data {identity['data'][:8]}",  # its folder's name may be a patient's
            "metric": identity["metric"],
        }
        rows += [{**common, **row} for row in (*_trials(found), *_finals(found))]
    parameters = list(dict.fromkeys(name for row in rows for name in row if name not in COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *parameters], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _trials(found: SearchFolder) -> Iterator[dict[str, Any]]:
    config, study = found.config(), found.study()
    for trial in study.trials:
        values, metric = trial.values(), str(study.identity["metric"])
        ends = value_interval(trial, metric, config.budget.epochs)
        yield {
            "kind": "trial",
            "part": "validation",
            "labels_from": _source(study.identity, "validation"),
            "trial": trial.number,
            "state": str(trial.state) if trial.state.terminal else "unfinished",
            "cause": public_cause(trial.cause),
            "value": trial.value if trial.value is not None else values[-1] if values else None,
            "standard_error": trial.standard_error(config.budget.epochs),
            **({"low": ends[0], "high": ends[1], "interval_level": LEVEL} if ends else {}),
            "epochs": trial.done,
            "device_hours": trial.seconds * devices(config.resources) / 3600,
            **{name: _plain(name, value) for name, value in trial.point.items()},
        }


def _finals(found: SearchFolder) -> Iterator[dict[str, Any]]:
    for final in finals(found.path):
        for configuration in final.configurations:
            report = configuration.report
            test = report["test"]
            yield {
                "kind": "final",
                "part": "test",
                "labels_from": _source(final.result, "test"),
                "metric": final.result["metric"],
                "backbone": report["backbone"],
                "trial": report["found"]["trial"],
                "state": "complete",
                **{name: test[name] for name in ("value", "low", "high")},
                "interval_level": test["level"],
                "seeds": len(report["seeds"]),
            }


def _source(of: dict[str, Any], part: str) -> str:
    source = of.get("labels_from", {}).get(part, "")
    return public_label(source) if source else ""


def _plain(name: str, value: Any) -> Any:
    return value if isinstance(value, int | float) else public_parameter(name, value)
