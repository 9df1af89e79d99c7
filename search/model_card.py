"""The model card of a final's model (Mitchell et al. 2019): a README.md beside its weights, without paths or ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from search.disclosure import public_label
from search.export import Export
from search.interval_text import interval_text, unreliable
from spaces.backbone import backbone
from trainables.card import ENSEMBLE, MODEL, README, read_card
from trainables.data.prepared import Prepared
from trainables.files import write_text

TEMPLATE = "model_card.md.j2"
LEAST = 10  # test images of a class, below which its card warns
TASKS = {
    "classification": "telling classes apart",
    "ordinal": "grading, from the lowest to the highest grade",
    "multilabel": "findings that may occur together",
}


def write_model_cards(folder: Path, result: dict[str, Any], export: Export, prepared: Prepared) -> None:
    """A card in each model and ensemble folder of a final.

    Args:
        folder: of the final.
        result: as the final wrote it.
        export: one of those that the final is of: where data, licence and versions are named.
        prepared: the final's data.
    """
    parts = {"train": prepared.train, "validation": prepared.validation}
    groups = {name: len(np.unique(prepared.manifest.groups[rows])) for name, rows in parts.items()}
    data = {
        "reader": export.dataset.reader,
        "versions": export.versions,
        "groups": {**groups, "test": result["test_groups"]},
    }
    for report in result["configurations"]:
        for model in (folder / f"model-{report['name']}", folder / f"ensemble-{report['name']}"):
            if model.is_dir():
                write_text(model / README, card_text(model, result, report, data))


def card_text(model: Path, result: dict[str, Any], report: dict[str, Any], data: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        model: its folder.
        result, report: of the final, and of the configuration within it.
        data: `reader`, `versions`, and number of `groups` by part.
    """
    card = read_card(model, (MODEL, ENSEMBLE))
    is_ensemble = card["kind"] == ENSEMBLE
    counts, config, own = result["counts"], report["config"], report["ensemble"] if is_ensemble else report
    environment = Environment(
        loader=PackageLoader("search"), autoescape=False, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(cell=_cell, interval=_interval, number=_number, public=public_label)
    return environment.get_template(TEMPLATE).render(
        {key: card[key] for key in ("classes", "temperature", "operating_points", "opening", "fit", "combine", "test")}
        | {key: card[key] for key in ("metric", "digests", "digest")}
        | {key: report[key] for key in ("found", "seeds", "shipped", "config")}
        | {key: card["preprocessing"][key] for key in ("pixels", "mean", "std")}
        | data,
        name=model.name.partition("-")[2],
        folder_name=model.name,
        what=f"The mean of {len(report['seeds'])} seeds' models" if is_ensemble else "A model",
        is_ensemble=is_ensemble,
        task_words=TASKS[card["task"]],
        counts=counts,
        expected=report["test"],
        classes_averaged=result.get("classes_averaged"),
        caveats=result.get("caveats", []),
        by_class=own["classes"],
        subgroups=own["subgroups"],
        calibration=own["calibration"],
        scarce=[name for name in card["classes"] if counts["test"][name] < LEAST],
        least=LEAST,
        licence=backbone(config["backbone"]).licence_text,
    )


def _cell(text: str) -> str:
    """A name as it may stand in a table of Markdown."""
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())


def _interval(interval: dict[str, Any]) -> str:
    """In a table, where there is no room for warnings."""
    if interval["value"] is not None and interval["low"] is None:
        return f"{interval['value']:.4f} (no interval)"
    if interval["value"] is None:
        return _cell(interval_text(interval))
    return _cell(interval_text({**interval, "warnings": []}) + (" (few groups)" if unreliable(interval) else ""))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
