"""What a final found, read back from its folder for those who show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from spaces.config import FORMAT
from spaces.mistakes import Mistake
from trainables.calibration import tempered
from trainables.metrics import Over, Reliability, classes_numbered, predicted, reliability, undefined_reasons
from trainables.predictions import read_arrays

RESULT = "result.json"
EXTERNAL = "-external-"  # in the name of a model's result on another test set


@dataclass(frozen=True)
class ClassResult:
    """One class on the test set."""

    name: str
    images: int
    recalled: int
    """Of them, predicted rightly by the shipped model."""
    recall: float | None
    """None where the class has no images."""
    over_seeds: float | None
    """The mean recall of all seeds."""


@dataclass(frozen=True)
class Configuration:
    """One configuration of a final."""

    report: dict[str, Any]
    """As `search.final` wrote it."""
    classes: tuple[ClassResult, ...]
    confusion: np.ndarray | None
    """[C, C] images of the shipped model: true class by predicted class; None with `missing`."""
    missing: str
    """Why there are no results by class, or nothing."""
    undefined: dict[str, str]
    """Why a metric isn't defined on the test set, by its name; of the first seed that has none."""
    as_they_are: Reliability | None
    """Of the shipped model's probabilities; None where the predictions are missing."""
    calibrated: Reliability | None
    """The same at its temperature; None where it has none."""

    def intervals_of_class(self, index: int) -> dict[str, Any]:
        """Of the shipped model by what is told of a class; empty in results of earlier versions."""
        of_class = self.report.get("classes") or []
        return of_class[index].get("intervals", {}) if index < len(of_class) else {}


@dataclass(frozen=True)
class FinalResult:
    """One final: a single opening of the test set."""

    folder: str
    """Its name."""
    result: dict[str, Any]
    configurations: tuple[Configuration, ...]
    externals: tuple[dict[str, Any], ...]
    """Its models on other test sets, as `search.external` wrote them, by when."""

    @property
    def labels_differ(self) -> bool:
        """Whether validation and test were labelled by different sources."""
        sources = self.result.get("labels_from", {})
        return len({sources[part] for part in ("validation", "test") if sources.get(part)}) > 1

    @property
    def caveats_elsewhere(self) -> list[str]:
        """Of the external sets, those that don't hold for the own test."""
        own = self.result.get("caveats", [])
        return [c for c in dict.fromkeys(c for e in self.externals for c in e.get("caveats", [])) if c not in own]


def finals(search: Path) -> list[FinalResult]:
    """The finals in a search's folder, `final` itself first.

    Raises:
        Mistake: a result that can't be read, or one of another format.
    """
    files = sorted(search.glob(f"*/{RESULT}"), key=lambda file: (file.parent.name != "final", file.parent.name))
    return [_read(file) for file in files]


def _read(file: Path) -> FinalResult:
    where = f"{file.parent.name}/{file.name}"
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        format = result["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Mistake(f"{where}: is no result of a final, or a damaged one; run the final anew.") from None
    if format != FORMAT:
        raise Mistake(f"{where}: has format {format}, this version reads {FORMAT}; run the final anew.")
    names = tuple(result["counts"]["test"])
    over = classes_numbered(result.get("classes_averaged"), names)
    configurations = tuple(_configuration(file.parent, report, names, over) for report in result["configurations"])
    return FinalResult(file.parent.name, result, configurations, _externals(file.parent))


def _externals(folder: Path) -> tuple[dict[str, Any], ...]:
    found = []
    for file in sorted(folder.glob(f"*{EXTERNAL}*.json")):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            known = result["format"] == FORMAT
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            where = f"{folder.name}/{file.name}"
            raise Mistake(f"{where}: is no result on an external set, or a damaged one; evaluate the model anew.")
        found.append(result)
    return tuple(sorted(found, key=lambda result: float(result["time"])))


def _configuration(folder: Path, report: dict[str, Any], names: tuple[str, ...], over: Over) -> Configuration:
    file = folder / f"{report['name']}-test.npz"
    try:
        saved = read_arrays(file, ("probabilities", "labels"))
    except (OSError, ValueError):
        return Configuration(
            report, (), None, f"the test predictions ({file.name}) are missing or damaged", {}, None, None
        )
    probabilities, labels = saved["probabilities"], saved["labels"]
    seeds = [run["seed"] for run in report["seeds"]]
    given = probabilities[seeds.index(report["shipped"]["seed"])]
    before, after, several = reliability(labels, given), None, labels.ndim != 1
    if found := report.get("calibration"):
        after = reliability(labels, tempered(given, found["temperature"], several=several))
    if several:
        return Configuration(report, (), None, "images may have several findings at once", {}, before, after)
    matrices = np.stack([confusion_matrix(labels, predicted(p), labels=range(len(names))) for p in probabilities])
    shipped = matrices[seeds.index(report["shipped"]["seed"])]
    right = np.diagonal(matrices, axis1=1, axis2=2)
    classes = []
    for index, name in enumerate(names):
        images, recalled = int(shipped[index].sum()), int(shipped[index, index])
        recall = recalled / images if images else None
        over_seeds = float(right[:, index].mean()) / images if images else None
        classes.append(ClassResult(name, images, recalled, recall, over_seeds))
    undefined: dict[str, str] = {}
    for run, p in zip(report["seeds"], probabilities, strict=True):
        if None in run["test"].values():
            undefined = undefined_reasons(labels, p, len(names), "ordinal", over=over) | undefined
    return Configuration(report, tuple(classes), shipped, "", undefined, before, after)
