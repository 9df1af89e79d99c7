"""Final runs of exported configurations: several seeds of the same loop, then the test, opened once for all."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.console import Console, duration
from search.evaluation import evaluate, metrics_of_seeds
from search.export import Export, describe, read_export
from search.identity import code_digest
from search.ledger import Ledger, Standing
from search.plan import concurrent_trials, this_machine_has
from spaces.config import FORMAT, Direction, TrialConfig
from spaces.mistakes import Mistake
from spaces.strict import digest
from trainables import final_run
from trainables.backbones import build, weights_digest
from trainables.comparison import comparison_with_best
from trainables.data.manifest import Manifest
from trainables.data.parts import open_part
from trainables.data.prepared import Digests, Prepared, prepare, sealed_test
from trainables.data.units import Units, units_of
from trainables.files import replacing, write_json
from trainables.final_run import Fit, RunOrder
from trainables.loop import Diverged, Infeasible, predict
from trainables.metrics import Undefined
from trainables.model_folder import load_model, save_model
from trainables.place import Place, this_machine
from trainables.predictions import Predictions

RESULT = "result.json"


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


def final(
    exports: Sequence[Path],
    *,
    seeds: int = 5,
    workers: int | None = None,
    fit: Fit = "train",
    again: str | None = None,
    output: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Runs every configuration with several seeds, then opens the test set once for all of them.

    Args:
        exports: files that `export` wrote, all from the same data and split.
        seeds: runs of each configuration; the first has the trial's own seed.
        workers: of one run, through Ray Train; None runs in this process.
        fit: `train`, or `all`: train and validation together, where nothing is selected.
        again: why the test set is opened again, if it was opened before for something else.
        output: folder to write; `final` beside the search by default.

    Returns:
        The folder, with `result.json` and a model folder for each configuration.

    Raises:
        Mistake: before anything is trained: other data, other weights, a test set that was opened before.
    """
    console = console or Console.silent()
    if seeds < 1 or (workers is not None and workers < 1):
        raise Mistake(f"final: --seeds {seeds} and --workers {workers}: both must be at least 1.")
    candidates = _candidates(exports, seeds)
    first = candidates[0].export
    with console.working("looking at the data"):
        prepared = _same_data(candidates)
        _same_weights(candidates)
    _resources(first, workers)
    ledgers = [Ledger(Path(storage)) for storage in sorted({c.export.storage for c in candidates})]
    what = digest([[c.export.config.plain(), list(c.seeds), fit] for c in candidates])
    for ledger in ledgers:
        ledger.refuse_unexplained(prepared.test_digest, what, again)
    folder = _folder(output, Path(first.storage) / first.found.search, what)
    prepared.save(folder / "data")
    if code_digest() != first.digests.code:
        console.print("The code has changed since the export: figures may differ from the trial's own.")

    started = time.time()
    results = _train(candidates, folder, prepared, fit, workers, console)
    cache = Path(first.cache)
    searches = tuple(sorted({c.export.found.search for c in candidates}))
    for ledger in ledgers:  # noted on disk before the test is read
        standing = ledger.open(prepared.test_digest, what, searches, len(candidates), again)
    test = sealed_test(first.dataset, cache, None, prepared)
    evaluated = [
        _evaluate(candidate, folder, runs, test, cache, fit, standing)
        for candidate, runs in zip(candidates, results, strict=True)
    ]
    reports = [report for report, _ in evaluated]
    compared = _compared(reports, [p for _, p in evaluated], units_of(test), str(first.config.metric))
    write_json(
        folder / RESULT,
        {
            "format": FORMAT,
            "metric": first.config.metric,
            "direction": first.direction,
            "fit": fit,
            "digests": first.digests.plain(),
            "counts": {
                "train": prepared.manifest.take(prepared.train).class_counts(),
                "validation": prepared.manifest.take(prepared.validation).class_counts(),
                "test": prepared.test_counts,
            },
            "test_groups": len(np.unique(test.groups)),
            "test_units": len(np.unique(test.units)),
            "opening": {**asdict(standing), "what": what, "reason": again or ""},
            "seconds": time.time() - started,
            "configurations": reports,
            "comparison": compared,
        },
    )
    _tell(reports, compared, first, standing, fit, folder, console)
    return folder


def _folder(output: Path | None, search: Path, what: str) -> Path:
    """Where this final is written: never over the result of another one."""

    def free(folder: Path) -> bool:
        try:
            return json.loads((folder / RESULT).read_text(encoding="utf-8"))["opening"].get("what") == what
        except FileNotFoundError:
            return True
        except (OSError, ValueError, KeyError):
            return False

    if output is not None:
        if (output.exists() and not output.is_dir()) or not free(output):
            raise Mistake(f"final: -o {output}: holds something else already; name another folder.")
        folder = output
    else:
        folder, count = search / "final", 1
        while not free(folder):
            count += 1
            folder = search / f"final-{count}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(f"final: {folder} can't be made ({error.strerror}); name another folder with -o.") from None
    return folder


def _resources(export: Export, workers: int | None) -> None:
    """That one run fits on this machine, where it is to run in this process."""
    if workers is None:
        concurrent_trials(
            export.resources.model_copy(update={"concurrent": "auto"}), *this_machine_has(export.resources)
        )


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


def _candidates(paths: Sequence[Path], seeds: int) -> list[Candidate]:
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
        if other.export.config.metric != candidates[0].export.config.metric:
            problems.append(
                f"{other.path}: has another metric than {candidates[0].path}; run a final for each of them."
            )
    if len({c.name for c in candidates}) < len(candidates):
        problems.append("final: the same configuration is given twice; give each once.")
    if problems:
        raise Mistake(*problems)
    return candidates


def _same_data(candidates: list[Candidate]) -> Prepared:
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


def _same_weights(candidates: list[Candidate]) -> None:
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


def _train(
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


def _evaluate(
    candidate: Candidate,
    folder: Path,
    runs: list[dict[str, Any]],
    test: Manifest,
    cache: Path,
    fit: Fit,
    standing: Standing,
) -> tuple[dict[str, Any], np.ndarray]:
    """One configuration on the test set: each seed, their mean with its interval, and the model that ships; and the
    probabilities [S, U, C] of its seeds."""
    export = candidate.export
    config, metric = export.config, export.config.metric
    place: Place = this_machine(export.resources.accelerators, export.resources.cpus)
    part = open_part(test, export.dataset, config.resolution, cache)
    probabilities = []
    for seed in candidate.seeds:
        trained = load_model(folder / "runs" / run_name(candidate, seed, fit) / final_run.MODEL)
        probabilities.append(predict(trained.model.to(place.device), trained.config, part, place))
    stacked = np.stack(probabilities)
    units = part.units
    labels = units.truth
    shipped = _shipped(runs, export.direction)
    folder_of_shipped = folder / "runs" / run_name(candidate, candidate.seeds[shipped], fit)
    validation = Predictions.load(folder_of_shipped / final_run.VALIDATION) if fit == "train" else None
    found = evaluate(metric, test.task, test.classes, units, stacked, shipped, validation)
    report: dict[str, Any] = {
        "name": candidate.name,
        "backbone": config.backbone,
        "found": export.found.plain(),
        "config": {
            **config.plain(),
            "weights": config.weights if config.weights in ("pretrained", "random") else "file",
        },
        "seeds": [
            {"seed": seed, "validation": run["validation"], "test": metrics}
            for seed, run, metrics in zip(
                candidate.seeds, runs, metrics_of_seeds(units, stacked, test.task), strict=True
            )
        ],
        "test": found["test"],
        "shipped": {"seed": candidate.seeds[shipped], "test": found["shipped"], "why": _why(fit, len(runs))},
        **{name: found[name] for name in ("classes", "subgroups", "calibration", "operating_points")},
    }
    _save_predictions(folder / f"{candidate.name}-test.npz", stacked, labels)
    temperature = found["calibration"]["temperature"] if found["calibration"] else None
    save_model(
        folder / f"model-{candidate.name}",
        load_model(folder_of_shipped / final_run.MODEL),
        {
            "seed": candidate.seeds[shipped],
            "fit": fit,
            "metric": metric,
            "test": found["shipped"],
            "expected": found["test"],
            "temperature": temperature,
            "operating_points": found["operating_points"],
            "opening": str(standing),
            "digests": export.digests.plain(),
        },
    )
    return report, stacked


def _compared(
    reports: list[dict[str, Any]], probabilities: list[np.ndarray], units: Units, metric: str
) -> dict[str, Any] | None:
    """Which configurations can't be told from the best one; None of one alone, or where the metric isn't defined."""
    if len(reports) < 2:
        return None
    recipes = {report["name"]: p for report, p in zip(reports, probabilities, strict=True)}
    try:
        found = comparison_with_best(metric, units.truth, recipes, units.groups, classes=probabilities[0].shape[-1])
    except Undefined:
        return None
    return asdict(found)


def _shipped(runs: list[dict[str, Any]], direction: Direction) -> int:
    """The seed with the best validation value; the first where none was validated."""
    values = [run["validation"] for run in runs]
    if any(value is None for value in values):
        return 0
    return int(np.argmax(values) if direction == "maximize" else np.argmin(values))


def _why(fit: Fit, runs: int) -> str:
    if runs == 1:
        return "the only seed"
    return "the best seed on validation" if fit == "train" else "the first seed: with fit all, nothing is selected"


def _save_predictions(path: Path, probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Test predictions, in the order of the test's rows: no names of images, patients or groups."""
    with replacing(path) as file:
        np.savez(file, probabilities=probabilities.astype(np.float32), labels=labels)


def _tell(
    reports: list[dict[str, Any]],
    compared: dict[str, Any] | None,
    first: Export,
    standing: Standing,
    fit: Fit,
    folder: Path,
    console: Console,
) -> None:
    metric = first.config.metric
    learned = "train" if fit == "train" else "train and validation, epochs fixed, nothing selected"
    for report in reports:
        console.print(f"{report['name']}, {len(report['seeds'])} seeds, learned from {learned}:")
        console.print(f"  expected over seeds: {metric} {interval_text(report['test'])} on the test set")
        console.print(
            f"  shipped model ({report['shipped']['why']}): {metric} {interval_text(report['shipped']['test'])}"
        )
        console.print(f"  model: {folder / ('model-' + report['name'])}")
    if compared:
        kept = [row["name"] for row in compared["recipes"] if row["in_question"]]
        console.print(f"Can't be told from the best: {', '.join(kept)}.")
    console.print(f"{standing}.", f"Result: {folder / RESULT}")


def interval_text(interval: dict[str, Any]) -> str:
    """`0.9352 [0.9100, 0.9550]`, or why there is no interval."""
    if interval["value"] is None:
        return f"not defined ({'; '.join(interval['warnings'])})"
    if interval["low"] is None:
        return f"{interval['value']:.4f}, no interval ({'; '.join(interval['warnings'])})"
    text = f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"
    return f"{text} ({'; '.join(interval['warnings'])})" if interval["warnings"] else text
