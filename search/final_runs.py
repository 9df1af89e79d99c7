"""The runs of a final: several seeds of each exported configuration, on the data that it was found on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.console import Console, duration
from search.export import Export, describe, read_export
from spaces.config import TrialConfig
from spaces.mistakes import Mistake
from trainables import final_run
from trainables.backbones import build, weights_digest
from trainables.causes import Diverged, Infeasible
from trainables.data.prepared import Digests, Prepared, prepare
from trainables.final_run import Fit, RunOrder
from trainables.place import this_machine


@dataclass(frozen=True)
class Candidate:
    """One exported configuration of a final."""

    path: Path
    export: Export
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.export.config.backbone.replace('/', '_')}-{self.export.config.digest()[:8]}"


def run_name(candidate: Candidate, seed: int, fit: Fit) -> str:
    """Folder of one run."""
    return f"{candidate.name}-{seed}" + ("-all" if fit == "all" else "")


def seeds_of(own: int, count: int) -> tuple[int, ...]:
    """The trial's own seed, then others that follow from it."""
    seeds = [own]
    while len(seeds) < count:
        bytes_ = hashlib.sha256(f"{own}:{len(seeds)}".encode()).digest()[:4]
        seeds.append(int.from_bytes(bytes_, "little") % 2**31)
    return tuple(seeds)


def reseeded(config: TrialConfig, seed: int) -> TrialConfig:
    """A configuration with another seed, which then draws everything; with its own it stays what it is."""
    return config if seed == config.seed else config.model_copy(update={"seed": seed, "view_seed": seed})


def candidates_of(paths: Sequence[Path], seeds: int) -> list[Candidate]:
    """The exported configurations of one final, each with that many seeds.

    Raises:
        Mistake: not exports, or such that one opening of the test set can't be for all of them.
    """
    candidates: list[Candidate] = []
    problems: list[str] = []
    for path in paths:
        try:
            export = read_export(path)
            candidates.append(Candidate(path, export, seeds_of(export.config.seed, seeds)))
        except Mistake as mistake:
            problems += mistake.sentences
    for other in candidates[1:]:
        for part in ("data", "split", "test"):
            if getattr(other.export.digests, part) != getattr(candidates[0].export.digests, part):
                problems.append(
                    f"{other.path}: has another {part} than {candidates[0].path}; run a final for each of them."
                )
        problems += [
            f"{other.path}: {name} is {theirs}, in {candidates[0].path} it is {ours}; run a final for each of them."
            for name, ours, theirs in _differences(candidates[0].export, other.export)
        ]
    if len({c.name for c in candidates}) < len(candidates):
        problems.append("final: the same configuration is given twice; give each once.")
    if problems:
        raise Mistake(*problems)
    return candidates


def _differences(first: Export, other: Export) -> list[tuple[str, str, str]]:
    """What is asked of the test, where two exports differ in it: the setting's name, and both values in words."""

    def of(export: Export) -> dict[str, str]:
        averaged, margin, point = export.config.classes_averaged, export.comparison.margin, export.operating_point
        return {
            "metric": export.config.metric,
            "classes_averaged": ", ".join(averaged) if averaged else "all",
            "comparison.margin": "none" if margin is None else f"{margin:g}",
            "operating_point": f"{point.target} {point.at:g}",
        }

    ours, theirs = of(first), of(other)
    return [(name, ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]]


def same_data(candidates: list[Candidate]) -> Prepared:
    """The prepared data, verified to be what every configuration was found on. No test row is in it."""
    export = candidates[0].export
    prepared = prepare(export.dataset, Path(export.cache), None)
    expected, found = export.digests, prepared.digests
    if Digests(expected.data, expected.split, expected.test) != found:
        part = "data" if expected.data != found.data_digest else "split"
        of, now = (expected.data, found.data_digest) if part == "data" else (expected.split, found.split_digest)
        raise Mistake(
            f"{candidates[0].path}: is an export from other data: its {part} has the digest {of[:12]}, what lies under "
            f"{export.dataset.root} has {now[:12]}; give the dataset that the search ran on, or search this one anew."
        )
    return prepared


def same_weights(candidates: list[Candidate]) -> None:
    """Verifies that every configuration would start from the weights that it was found with.

    Raises:
        Mistake: one wouldn't.
    """
    problems = []
    for c in candidates:
        config = c.export.config
        found = weights_digest(build(config.backbone, weights=config.weights, resolution=config.resolution))
        if found != c.export.digests.weights:
            problems.append(
                f"{c.path}: the weights of {config.backbone} have the digest {found[:12]}, the export's have "
                f"{c.export.digests.weights[:12]}; use the file that the search used."
            )
    if problems:
        raise Mistake(*problems)


def train(
    candidates: list[Candidate], folder: Path, prepared: Prepared, fit: Fit, workers: int | None, console: Console
) -> list[list[dict[str, Any]]]:
    """Every run's result, by configuration and seed; runs that were finished before are kept."""
    results: list[list[dict[str, Any]]] = []
    total = sum(len(c.seeds) for c in candidates)
    done = 0
    for candidate in candidates:
        results.append([])
        for seed in candidate.seeds:
            export = candidate.export
            order = RunOrder(
                folder=str((folder / "runs" / run_name(candidate, seed, fit)).absolute()),
                config=reseeded(export.config, seed).plain(),
                dataset=export.dataset.plain(),
                prepared=str((folder / "data").absolute()),
                cache=export.cache,
                fit=fit,
                threads=export.resources.cpus,
                accelerators=export.resources.accelerators,
                shard=export.resources.shard,
            )
            done += 1
            result = final_run.finished(order)
            if result is None:
                started = time.monotonic()
                with console.working(f"run {done} of {total}: {describe(export)}, seed {seed}"):
                    try:
                        _run(order, workers)
                    except (Diverged, Infeasible) as error:
                        raise Mistake(
                            f"final: run {done} of {total} (seed {seed}) can't be finished: {error}. "
                            "The test set was not opened; give another configuration."
                        ) from None
                result = final_run.finished(order)
                if result is None:
                    raise RuntimeError(f"run {done} of {total} ended without a result")
                took = duration(time.monotonic() - started)
            else:
                took = "kept from before"
            value = (
                f"{export.config.metric} {result['validation']:.4f} on validation"
                if result["validation"] is not None
                else "trained"
            )
            console.print(f"run {done} of {total}: {describe(export)}, seed {seed}: {value}, {took}")
            results[-1].append(result)
    return results


def _run(order: RunOrder, workers: int | None) -> None:
    if workers is None:
        final_run.run(order, this_machine(order.accelerators, order.threads))
        return
    from search.group import run_group

    run_group(order, workers)
