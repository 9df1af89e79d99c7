"""What `medtune check` tells of a search that could be started, and of one that couldn't."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from search.console import Console
from search.cost import Estimate, estimate, estimate_lines
from search.folder import taken
from search.images_found import alike_lines, copies_lines, in_full, left_out_lines, shapes_lines
from search.learnable import LEVEL, POWER, SHARED, SKILL, WITHIN_GROUPS, WORTH, Learnable, few_groups, learnable
from search.plan import Plan, plan
from search.rungs import rung_epochs
from search.weights import look_at_weights
from spaces.backbone import licences_text
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.protocol import notes
from spaces.words import counted
from trainables.data.audit import copies, shapes
from trainables.data.manifest import Manifest
from trainables.data.problems import SHOWN
from trainables.data.units import Scored, scored, units_of
from trainables.files import write_text
from trainables.metrics import classes_numbered


def check(config: SearchConfig, base: Path, console: Console) -> None:
    """Prints what can be known before the start. What is more than ten of a kind stands in full in a file beside the
    searches, `check-<name>.txt`.

    Args:
        base: folder that the dataset's root is relative to.

    Raises:
        Mistake: everything that is wrong.
    """
    file = Path(config.storage).resolve() / f"check-{config.name}.txt"
    with suppress(OSError):
        file.unlink()  # of an earlier check
    try:
        with console.working("looking at the data") as progress:
            planned = plan(config, base, thorough=True, progress=progress)
    except Mistake as mistake:
        if mistake.full == mistake.sentences or not _keep(file, mistake.full):
            raise
        everything = f"All {len(mistake.full)} problems are in {file}."
        raise Mistake(*mistake.sentences, everything, full=mistake.full) from None
    look_at_weights(planned.config, console)
    with console.working("measuring what trials cost", of="kinds of them") as progress:
        costs = estimate(planned, progress)
    console.print(*describe(planned, file, costs))


def describe(plan: Plan, file: Path, costs: Estimate | None) -> list[RenderableType]:
    """Data, what they can show, space, budget, cost and resources, for a person to look at before the first accelerator
    second. Lists too long to be printed are written to `file`."""
    config, prepared = plan.config, plan.prepared
    rungs = rung_epochs(config.budget.epochs, config.stopping, config.dataset.split.folds)
    licences = licences_text(config.backbones)
    budget = counted(config.budget.trials, "trial")
    if config.strategy == "compare":
        each = config.budget.trials // len(config.backbones)
        budget += f" ({each} for each of {len(config.backbones)} backbones)"
    found = plan.copies or copies(prepared.manifest)
    left_out = prepared.manifest.left_out
    full = in_full(found, plan.alike, left_out)
    return [
        f"{config.name}: {len(prepared.train)} training, {len(prepared.validation)} validation images; "
        f"the test set ({_test_size(plan)}) stays sealed",
        counts_table(plan),
        *split_lines(plan),
        *notes(config),
        *prepared.manifest.notes,
        *prepared.manifest.caveats,
        *left_out_lines(left_out),
        *copies_lines(found),
        *alike_lines(plan.alike, config),
        *([f"What is too long to be printed is in {file}."] if full and _keep(file, full) else []),
        *shapes_lines(shapes(prepared.manifest), len(prepared.manifest)),
        *learnable_lines(plan),
        space_table(plan),
        *batch_lines(plan),
        f"Budget: {budget} of up to {counted(config.budget.epochs, 'epoch')}, {plan.concurrent} at once; "
        f"{counted(len(plan.first), 'shipped or own configuration')} first; "
        + (f"compared after epochs {', '.join(map(str, rungs))}" if rungs else "nobody is stopped early"),
        *estimate_lines(costs, plan),
        f"Metric: {config.metric} ({plan.direction}) on validation. Licences of the weights: {licences}",
        f"All else is in order, but {reason}" if (reason := taken(config)) else "Everything is in order.",
    ]


@dataclass(frozen=True)
class _Part:
    images: dict[str, int]
    by_class: Mapping[str, Scored]
    totals: tuple[str, str, str]
    """Images, units and groups in all."""


def counts_table(plan: Plan) -> Table:
    """Images, units that are scored, and groups, by class and part; units only where several images can make one."""
    prepared = plan.prepared
    manifest = prepared.manifest
    parts = {
        "train": _part(manifest.take(prepared.train)),
        "validation": _part(manifest.take(prepared.validation)),
        "test": _Part(prepared.test_counts, prepared.test_scored, ("", "", "")),
    }
    several = len(np.unique(manifest.units)) < len(manifest)
    columns = ("images", "units", "groups") if several else ("images", "groups")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title="By class", title_justify="left")
    table.add_column("class")
    for name in parts:
        for column in columns:
            table.add_column(f"{name} {column}", justify="right")
    for name in manifest.classes:
        cells: list[str] = []
        for part in parts.values():
            of = part.by_class[name]
            values = {"images": part.images.get(name, 0), "units": of.positive, "groups": of.groups}
            cells += [str(values[column]) for column in columns]
        table.add_row(name, *cells)
    totals: list[str] = []
    for part in parts.values():
        values_of_all = dict(zip(("images", "units", "groups"), part.totals, strict=True))
        totals += [values_of_all[column] for column in columns]
    table.add_row("all", *totals)
    return table


def _part(manifest: Manifest) -> _Part:
    totals = len(manifest), len(np.unique(manifest.units)), len(np.unique(manifest.groups))
    return _Part(manifest.class_counts(), scored(manifest), (str(totals[0]), str(totals[1]), str(totals[2])))


def _test_size(plan: Plan) -> str:
    """Of a test set of which only counts by class are known."""
    prepared = plan.prepared
    if prepared.manifest.task != "multilabel":
        return f"{sum(prepared.test_counts.values())} images"
    return f"{max(of.positive + of.negative for of in prepared.test_scored.values())} units"


def learnable_lines(plan: Plan) -> list[str]:
    """What the validation set can show, and warnings where it can't show much."""
    prepared, config = plan.prepared, plan.config
    rows = np.unique(np.concatenate([validation for _, validation in prepared.folds]))
    validation = prepared.manifest.take(rows)
    found = learnable(
        str(config.metric),
        units_of(validation),
        len(validation.classes),
        validation.task,
        config.budget.trials,
        over=classes_numbered(config.classes_averaged, validation.classes),
    )
    folds = f" in {len(prepared.folds)} folds" if len(prepared.folds) > 1 else ""
    lines = [_shown(found, str(config.metric), folds)]
    if found.standard_error is None:
        lines.append(
            f"WARNING: the validation set is too small to tell how sure a value of {config.metric} is "
            f"({found.reason}): a ranking of trials means little. Enlarge it (dataset.split.validation), or use folds "
            "(dataset.split.folds)."
        )
    elif found.ranks_noise:
        lines.append(
            f"WARNING: {counted(config.budget.trials, 'trial')} would rank noise: of as many equally good ones the "
            f"best would look {found.optimism:.3f} better than it is, and choosing well is worth some {WORTH:g} to "
            f"{2.5 * WORTH:g} as a rule. Run fewer trials, enlarge validation (dataset.split.validation), or use folds "
            "(dataset.split.folds); believe the final's value alone."
        )
    for name, by_class in (("validation", scored(validation)), ("test", prepared.test_scored)):
        few = few_groups(by_class)
        if few:
            shown = ", ".join(f"{one} {count}" for one, count in list(few.items())[:SHOWN])
            more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
            lines.append(f"WARNING: few groups in {name}, where intervals are unreliable: {shown}{more}.")
    return lines


def split_lines(plan: Plan) -> list[str]:
    """Which parts are medtune's own where the dataset has a split of its own."""
    if not plan.carved:
        return []
    return [
        f"The dataset's own split has no {' and no '.join(plan.carved)} part: taken from its training images, by group "
        "(dataset.split)."
    ]


def batch_lines(plan: Plan) -> list[str]:
    """That batches hold all there is, where they are larger than that."""
    images = min(len(train) for train, _ in plan.prepared.folds)
    larger = [str(size) for size in plan.space.offered("batch_size") if isinstance(size, int) and size > images]
    if not larger:
        return []
    return [
        f"batch_size {', '.join(larger)}: more than the {images} training images, so that a batch holds all of them "
        "and an epoch is one step."
    ]


def _shown(found: Learnable, metric: str, folds: str) -> str:
    size = f"What validation can show ({found.units} units of {found.groups} groups{folds}): "
    if found.standard_error is None:
        return f"{size}can't be told, since {found.reason}."
    return (
        f"{size}a {metric} of {SKILL:g} has a standard error of {found.standard_error:.3f}; two configurations are "
        f"told apart from a difference of {found.smallest:.3f} on (paired, {LEVEL:.0%} two-sided, {POWER:.0%} power); "
        f"the best of {found.trials} equally good ones looks {found.optimism:.3f} too good. Simulated for these "
        f"classes and groups, if configurations share {SHARED:.0%} of their errors' variance and a group's units "
        f"{WITHIN_GROUPS:.0%}."
    )


def space_table(plan: Plan) -> Table:
    """Every dimension that a trial can be asked, with its values and when it is asked."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title="Space", title_justify="left")
    for column in ("dimension", "values", "asked when"):
        table.add_column(column)
    for dimension in plan.space.reachable:
        when = "; ".join(
            f"{name} {'in ' + ', '.join(map(str, c.among)) if c.among else 'not ' + ', '.join(map(str, c.excluding))}"
            for name, c in dimension.when.items()
        )
        table.add_row(dimension.key, dimension.describe(), when)
    for name, value in plan.space.fixed.items():
        table.add_row(name, str(value), "fixed")
    return table


def _keep(file: Path, lines: tuple[str, ...] | list[str]) -> bool:
    """Writes a file for the person; where that can't be done, what is printed has to do."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, "\n".join(lines) + "\n")
    except OSError:
        return False
    return True
