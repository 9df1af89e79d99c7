"""From the record to `best.yaml`: a configuration that runs without the search it was found by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from search import places
from search.folder import SearchFolder, to_yaml
from search.identity import code_digest
from search.outputs import check_file, refuse_replacing
from search.record import State, Trial, ranked
from search.trial_text import interval_or_why, what_is_trained
from spaces.config import (
    FORMAT,
    ComparisonConfig,
    DatasetConfig,
    Direction,
    OperatingPointConfig,
    Protocol,
    ResourcesConfig,
    SearchConfig,
    TrialConfig,
)
from spaces.library import trial_config
from spaces.mistakes import Mistake
from spaces.strict import Strict, read_yaml
from spaces.words import counted
from trainables.files import write_text

KIND = "medtune export"
EARLIER = re.compile(rf"^kind: {KIND}\s*$", re.MULTILINE)


class Found(Strict):
    """Where a configuration comes from."""

    search: str
    trial: int
    value: float
    """On the validation set. The best of many trials: too good on average, see the final's own."""
    standard_error: float | None
    ordered: int
    """Trials that the search was to run."""
    complete: int
    """Trials that it was chosen from."""
    folds: int = 1
    """Above 1, `value` is the mean over that many folds, whose validation sets a final's isn't."""
    protocol: Protocol = "own"
    """`paper`: of a search by a paper's protocol, for comparison with its figures alone."""


class Digests(Strict):
    """What the configuration was found on."""

    data: str
    split: str
    test: str
    weights: str
    """Of the backbone's weights as loaded, before any training."""
    code: str


class Export(Strict):
    """`best.yaml`, with its places (search.places)."""

    kind: Literal["medtune export"]
    format: int
    found: Found
    direction: Direction
    comparison: ComparisonConfig = ComparisonConfig()
    operating_point: OperatingPointConfig = OperatingPointConfig()
    """As both were settled before the search."""
    config: TrialConfig
    dataset: DatasetConfig
    digests: Digests
    storage: str
    """Folder with the ledger of test openings."""
    cache: str
    resources: ResourcesConfig
    versions: dict[str, str]


def export(
    found: SearchFolder, output: Path, *, top: int | None = None, per: str | None = None
) -> list[tuple[Path, str]]:
    """Writes the best configuration, the `top` best, or the best per backbone.

    Returns:
        Each file with a line that says what is in it.

    Raises:
        Mistake: no complete trial yet, no place to write, or something else than an export in that place.
    """
    check_file("export", output)
    config, study = found.config(), found.study()
    direction: Direction = study.identity["direction"]
    complete = ranked(study.trials, direction)
    if not complete:
        raise Mistake(
            f"export: {config.name} has no complete trial yet ({counted(len(study.trials), 'trial')} so far); wait, "
            "or resume it."
        )
    if top is not None and not 1 <= top <= len(complete):
        raise Mistake(f"export: --top {top}: expected 1 to {len(complete)}, the number of complete trials.")
    if per == "backbone":
        chosen = {str(t.point["backbone"]): t for t in reversed(complete)}
        named = [(file_of_backbone(output, name), chosen[name]) for name in sorted(chosen)]
    elif top is not None:
        named = [(file_of_rank(output, i), t) for i, t in enumerate(complete[:top])]
    else:
        named = [(output, complete[0])]
    for path, _ in named:
        refuse_replacing("export", path, "exported configuration", EARLIER)
    exports = [(path, _export(config, study.identity, trial, direction, len(complete))) for path, trial in named]
    written = []
    for path, data in exports:
        line = (
            f"trial {data.found.trial} of {data.found.search}, {data.config.backbone}, "
            f"{data.config.metric} {interval_or_why(data.found.value, data.found.standard_error, data.config.metric)} "
            "on validation"
        )
        sent, own = places.divide(data.plain())
        places.keep(path.parent, sent, own)
        write_text(path, f"# Exported by medtune: {line}.\n# Run it: medtune final {path.name}\n{to_yaml(sent)}")
        written.append((path, line))
    return written


def file_of_backbone(output: Path, backbone: str) -> Path:
    """Of an export per backbone: `best-mae_base.yaml` of `best.yaml`."""
    return output.with_stem(f"{output.stem}-{backbone.replace('/', '_')}")


def file_of_rank(output: Path, rank: int) -> Path:
    """Of an export of the best, counted from 0: `best-1.yaml` of `best.yaml`."""
    return output.with_stem(f"{output.stem}-{rank + 1}")


def left_out(found: SearchFolder) -> list[str]:
    """Of an export per backbone: a sentence for each backbone that has no complete trial, and why not."""
    config, study = found.config(), found.study()
    sentences = []
    for name in config.backbones:
        states = [t.state for t in study.trials if t.point["backbone"] == name]
        if State.COMPLETE in states:
            continue
        ended = ", ".join(f"{states.count(state)} {state}" for state in State if state in states)
        had = f"{counted(len(states), 'trial')} ({ended})" if states else "no trial at all"
        sentences.append(
            f"{name}: NOT exported: it has no complete trial; the record has {had} of it. More trials may find one: "
            f"medtune resume {found.path} --set budget.trials=N."
        )
    return sentences


def read_export(path: Path) -> Export:
    """An exported configuration.

    Raises:
        Mistake: not an export, of another format, altered beyond use, or sent here without its places.
    """
    data = read_yaml(path)
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise Mistake(f'{path}: is no exported configuration; make one with "medtune export NAME -o {path.name}".')
    if data.get("format") != FORMAT:
        raise Mistake(f"{path}: has format {data.get('format')}, this version reads {FORMAT}; export it again.")
    return Export.parse(places.complete(path, data), str(path))


def _export(
    config: SearchConfig, identity: dict[str, Any], trial: Trial, direction: Direction, complete: int
) -> Export:
    from trainables.backbones import build, weights_digest

    assert trial.value is not None
    chosen = trial_config(
        config,
        trial.point,
        metric=str(config.metric or identity["metric"]),
        policy=str(config.dataset.policy or "none"),
        seed=trial.seed,
    )
    loaded = build(chosen.backbone, weights=chosen.weights, resolution=chosen.resolution, drop_path=chosen.drop_path)
    return Export(
        kind="medtune export",
        format=FORMAT,
        found=Found(
            search=config.name,
            trial=trial.number,
            value=trial.value,
            standard_error=trial.standard_error(config.budget.epochs),
            ordered=config.budget.trials,
            complete=complete,
            folds=config.dataset.split.folds,
            protocol=config.protocol,
        ),
        direction=direction,
        comparison=config.comparison,
        operating_point=config.operating_point,
        config=chosen,
        dataset=config.dataset,
        digests=Digests(
            data=identity["data"],
            split=identity["split"],
            test=identity["test"],
            weights=weights_digest(loaded),
            code=code_digest(),
        ),
        storage=config.storage,
        cache=str(config.cache_folder),
        resources=config.resources,
        versions=identity["versions"],
    )


def describe(export: Export) -> str:
    """A line for lists: what this configuration is."""
    trial = Trial(
        export.found.trial,
        {"trained_blocks": export.config.trained_blocks, "adapter": export.config.adapter},
        0,
        "",
        0.0,
    )
    return f"{export.config.backbone}, {what_is_trained(trial)} (trial {export.found.trial} of {export.found.search})"
