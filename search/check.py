"""What `medtune check` tells of a search that could be started."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from search.identity import counts
from search.plan import Plan
from search.rungs import rung_epochs
from spaces.backbone import backbone


def describe(plan: Plan) -> list[RenderableType]:
    """Data, space, budget and resources, for a person to look at before the first accelerator second."""
    config, prepared = plan.config, plan.prepared
    parts = counts(plan)
    data = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title="Images by class", title_justify="left")
    data.add_column("class")
    for part in parts:
        data.add_column(part, justify="right")
    for name in prepared.manifest.classes:
        data.add_row(name, *(str(parts[part].get(name, 0)) for part in parts))
    data.add_row("all", *(str(sum(parts[part].values())) for part in parts))
    space = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title="Space", title_justify="left")
    for column in ("dimension", "values", "asked when"):
        space.add_column(column)
    for dimension in plan.space.dimensions:
        when = "; ".join(
            f"{name} {'in ' + ', '.join(map(str, c.among)) if c.among else 'not ' + ', '.join(map(str, c.excluding))}"
            for name, c in dimension.when.items()
        )
        space.add_row(dimension.key, dimension.describe(), when)
    for name, value in plan.space.fixed.items():
        space.add_row(name, str(value), "fixed")
    rungs = rung_epochs(config.budget.epochs, config.stopping)
    licences = ", ".join(f"{name} {backbone(name).licence}" for name in config.backbones)
    notes = list(prepared.manifest.notes)
    return [
        f"{config.name}: {len(prepared.train)} training, {len(prepared.validation)} validation images; "
        f"the test set ({sum(prepared.test_counts.values())} images) stays sealed",
        data,
        *notes,
        space,
        f"Budget: {config.budget.trials} trials of up to {config.budget.epochs} epochs, {plan.concurrent} at once; "
        f"first {len(plan.first)} shipped or own configurations; "
        + (f"compared after epochs {', '.join(map(str, rungs))}" if rungs else "nobody is stopped early"),
        f"Metric: {config.metric} ({plan.direction}) on validation. Licences of the weights: {licences}",
        "Everything is in order.",
    ]
