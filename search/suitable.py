"""Whether space, metric and strategy suit the dataset: what would fail, or mean nothing, in each trial alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spaces.config import METRICS, SearchConfig, TrialConfig
from spaces.dimensions import Space, Value
from spaces.mistakes import Mistake, nearest
from trainables.data.manifest import Manifest, Task
from trainables.data.prepared import Prepared
from trainables.data.units import scored
from trainables.metric_names import RANKED, metrics_for

NEEDS_TASK: tuple[tuple[str, tuple[Value, ...], tuple[Task, ...], str], ...] = (
    # dimension, values (none given: all but the trial's default), tasks that they are for, and why
    ("loss", ("ordinal", "regression"), ("ordinal",), "is for grades, which have an order"),
    ("logit_adjustment", (), ("classification", "ordinal"), "is for classes of which each image has one"),
    ("uncertain", (), ("multilabel",), "is for findings, whose labels may be uncertain"),
    ("blank", (), ("multilabel",), "is for findings, which may not be mentioned"),
)
ONE_LOSS = ("focal", "logit_adjustment")  # have no meaning under the losses of grades
TASKS = {"classification": "classes without an order", "ordinal": "grades", "multilabel": "findings"}
SOURCES = "labels from"  # attribute of datasets with labels of several sources
EVERY_CLASS = frozenset({"balanced_accuracy", "macro_f1"}) | RANKED
WAYS = "choose another metric or other classes (for macro metrics: classes_averaged), or another split"


def check_strategy(config: SearchConfig) -> None:
    """That a comparison of backbones can be fair.

    Raises:
        Mistake: one backbone alone, or trials that don't divide evenly.
    """
    backbones, trials = len(config.backbones), config.budget.trials
    if config.strategy != "compare":
        return
    if backbones < 2:
        raise Mistake("strategy: compare needs at least two backbones, found one; name more, or write strategy: free.")
    if trials % backbones:
        less = trials - trials % backbones
        ways = f"{less} or {less + backbones}" if less else str(backbones)
        raise Mistake(
            f"budget.trials: {trials} trials can't be dealt evenly to {backbones} backbones (strategy: compare); "
            f"write {ways}."
        )


def check_direction(config: SearchConfig) -> None:
    """That the direction is the metric's, which may be the reader's own choice.

    Raises:
        Mistake: it isn't.
    """
    expected = METRICS[str(config.metric)]
    if config.direction not in (None, expected):
        raise Mistake(
            f"direction: {config.metric} has {expected}, found {config.direction}; leave direction out, or choose "
            "another metric."
        )


def check_sources(prepared: Prepared) -> None:
    """That no part holds labels of two sources, whose values don't belong in one figure.

    Raises:
        Mistake: one does.
    """
    manifest = prepared.manifest
    if SOURCES not in manifest.attributes:
        return
    for name, rows in (("training", prepared.train), ("validation", prepared.validation)):
        sources = sorted(set(manifest.attributes[SOURCES][rows].tolist()))
        if len(sources) > 1:
            raise Mistake(
                f"dataset.split: the {name} part would hold labels of {' and of '.join(sources)}, whose values don't "
                "belong in one figure; keep the dataset's own split (official: true)."
            )


def labels_from(manifest: Manifest) -> str:
    """Where the labels of some rows come from; nothing for datasets that don't say."""
    return " and ".join(sorted(set(manifest.attributes.get(SOURCES, np.array([])).tolist())))


def check_task(space: Space, manifest: Manifest) -> None:
    """That each value of the space means something for the dataset's task.

    Raises:
        Mistake: values that no trial could use, or that would have no effect without anyone seeing it.
    """
    problems = []
    for name, values, tasks, why in NEEDS_TASK:
        default = TrialConfig.model_fields[name].default
        wrong = [value for value in space.offered(name) if (value in values if values else value != default)]
        if wrong and manifest.task not in tasks:
            shown = ", ".join(map(str, wrong))
            problems.append(
                f"space: {name}: {shown} {why}, but this dataset has {TASKS[manifest.task]}; leave it out, or write "
                f"{name}: {default}."
            )
    other_losses = [str(loss) for loss in space.offered("loss") if loss != "cross_entropy"]
    for name in ONE_LOSS:
        fixed = space.fixed.get(name, 0)
        if fixed and other_losses:
            problems.append(
                f"space: {name}: is fixed at {fixed}, which means nothing under the loss {', '.join(other_losses)}; "
                f"write {name}: {{choice: [{fixed}]}}, which is asked with cross_entropy only."
            )
    if problems:
        raise Mistake(*problems)


def check_metric(metric: str, prepared: Prepared, averaged: Sequence[str] | None = None) -> None:
    """That the metric can be defined on the validation set, every fold of it, and the test set.

    Args:
        averaged: classes that it is averaged over; None is all.

    Raises:
        Mistake: it can't, whatever a model predicts; or it isn't averaged over such classes.
    """
    manifest = prepared.manifest
    _check_averaged(metric, averaged, manifest)
    known = metrics_for(manifest.task)
    if metric not in known:
        raise Mistake(
            f"metric: {metric} isn't for {TASKS[manifest.task]}, which this dataset has; write one of "
            f"{', '.join(known)}."
        )
    parts = {"test set": prepared.test_scored}
    for number, (_, validation) in enumerate(prepared.folds, start=1):
        name = f"validation set of fold {number}" if len(prepared.folds) > 1 else "validation set"
        parts[name] = scored(manifest.take(validation))
    problems = []
    for part, by_class in parts.items():
        counted = averaged or manifest.classes
        none = [name for name in counted if not by_class[name].positive]
        nothing_else = [name for name in counted if not by_class[name].negative]
        if metric in EVERY_CLASS and none:
            problems.append(f"metric: {metric} isn't defined on the {part}, which has none of {_few(none)}; {WAYS}.")
        elif metric in RANKED and nothing_else:
            problems.append(
                f"metric: {metric} isn't defined on the {part}, where everything is {_few(nothing_else)}; {WAYS}."
            )
        elif metric == "quadratic_weighted_kappa" and len(none) >= len(manifest.classes) - 1:
            problems.append(f"metric: {metric} isn't defined on the {part}, which has one grade only; {WAYS}.")
    if problems:
        raise Mistake(*problems)


def _check_averaged(metric: str, averaged: Sequence[str] | None, manifest: Manifest) -> None:
    if averaged is None:
        return
    if metric not in RANKED:
        raise Mistake(
            f"classes_averaged: {metric} is of all classes by its definition; leave classes_averaged out, or write one "
            f"of {', '.join(sorted(RANKED))} as metric."
        )
    unknown = [name for name in averaged if name not in manifest.classes]
    if unknown:
        shown = _few([f'"{name}"' for name in unknown])
        raise Mistake(f"classes_averaged: the dataset has no class {shown}.{nearest(unknown[0], manifest.classes)}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
