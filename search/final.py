"""Final runs of exported configurations: several seeds of the same loop, then the test, opened once for all."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from search.console import Console
from search.export import Export
from search.final_evaluation import compared, evaluated
from search.final_runs import Candidate, candidates_of, same_data, same_weights, train
from search.folder import SETTINGS
from search.group import check_room
from search.identity import code_digest, other_versions, versions
from search.interval_text import interval_text
from search.ledger import Ledger, SealedTest, Standing
from search.model_card import write_model_cards
from search.outputs import check_folder
from search.plan import concurrent_trials, this_machine_has
from search.suitable import labels_from
from search.tracking import settings, start_mirror, tracking_uri
from spaces.config import FORMAT
from spaces.mistakes import Mistake
from spaces.strict import digest
from spaces.words import counted
from trainables.data.prepared import sealed_test
from trainables.files import write_json
from trainables.final_run import Fit

RESULT = "result.json"
SEEDS = 5  # unless others are asked for


def final(
    exports: Sequence[Path],
    *,
    seeds: int = SEEDS,
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
        The folder, with `result.json`, and for each configuration the folder of a model and, of several seeds, of their
        ensemble.

    Raises:
        Mistake: before anything is trained: other data, other weights, a test set that was opened before.
    """
    console = console or Console.silent()
    asked_for = {"seeds": seeds, "workers": workers}
    few = [f"final: --{name} {n}: expected 1 or more." for name, n in asked_for.items() if n is not None and n < 1]
    if few:
        raise Mistake(*few)
    candidates = candidates_of(exports, seeds)
    first = candidates[0].export
    _resources(candidates, workers)
    margin = first.comparison.margin
    asked = [margin, first.operating_point.plain()]  # one that is chosen after looking asks anew
    what = digest([*asked, *([c.export.config.plain(), list(c.seeds), fit] for c in candidates)])
    folder = _folder(output, Path(first.storage) / first.found.search, what)
    with console.working("looking at the data"):
        prepared = same_data(candidates)
        same_weights(candidates)
    ledgers = [Ledger(Path(storage)) for storage in sorted({c.export.storage for c in candidates})]
    sealed = SealedTest(prepared.test_digest, prepared.test_contents)
    for ledger in ledgers:
        ledger.refuse_unexplained(sealed, what, again)
    prepared.save(folder / "data")
    if code_digest() != first.digests.code:
        console.print("The code has changed since the export: figures may differ from the trial's own.")
    console.print(*dict.fromkeys(one for c in candidates for one in other_versions(c.export.versions, versions())))

    started = time.monotonic()
    results = train(candidates, folder, prepared, fit, workers, console)
    cache = Path(first.cache)
    searches = tuple(sorted({c.export.found.search for c in candidates}))
    for ledger in ledgers:  # noted on disk before the test is read
        standing = ledger.open(sealed, what, searches, len(candidates), again)
    test = sealed_test(first.dataset, cache, None, prepared)
    found = [
        evaluated(candidate, folder, runs, test, cache, fit, standing)
        for candidate, runs in zip(candidates, results, strict=True)
    ]
    reports = [report for report, _ in found]
    comparison = compared(reports, [p for _, p in found], test, first.config, margin)
    result = {
        "format": FORMAT,
        "metric": first.config.metric,
        "classes_averaged": first.config.plain()["classes_averaged"],
        "margin": margin,
        "direction": first.direction,
        "fit": fit,
        "digests": first.digests.plain(),
        "counts": {
            "train": prepared.manifest.take(prepared.train).class_counts(),
            "validation": prepared.manifest.take(prepared.validation).class_counts(),
            "test": prepared.test_counts,
        },
        "labels_from": {
            "validation": labels_from(prepared.manifest.take(prepared.validation)),
            "test": labels_from(test),
        },
        "caveats": list(test.caveats),
        "test_groups": len(np.unique(test.groups)),
        "test_units": len(np.unique(test.units)),
        "opening": {**asdict(standing), "what": what, "reason": again or ""},
        "seconds": time.monotonic() - started,
        "configurations": reports,
        "comparison": comparison,
    }
    write_json(folder / RESULT, result)
    write_model_cards(folder, result, first, prepared)
    _tell(reports, comparison, first, standing, fit, test.caveats, folder, console)
    _register(Path(first.storage) / first.found.search, folder, console)
    return folder


def _register(search: Path, folder: Path, console: Console) -> None:
    """Lets MLflow's mirror of the search register the models, in its own time; a final never fails by it."""
    if not (search / SETTINGS).is_file():
        return
    try:
        mlflow = settings(search).mlflow
        if mlflow == "off":
            return
        if folder.resolve().parent != search.resolve():
            console.print(f"MLflow: not registered, since {folder} isn't in the search's own folder.")
            return
        tracking_uri(search, mlflow)  # refuses here, not unseen in the mirror, what an earlier version took
        start_mirror(search)
        console.print(f'MLflow: registering as "medtune-{search.name}"; if it is away: medtune sync {search}')
    except (Mistake, OSError) as error:
        console.print(
            f"MLflow: not registered: {str(error).rstrip('.')}. Once that is mended (mlflow stands in "
            f"{search / SETTINGS}): medtune sync {search}"
        )


def _folder(output: Path | None, search: Path, what: str) -> Path:
    """Where this final is written: never over the result of another one. Nothing is made yet.

    Raises:
        Mistake: it can't be written there.
    """

    def free(folder: Path) -> bool:
        try:
            return json.loads((folder / RESULT).read_text(encoding="utf-8"))["opening"].get("what") == what
        except FileNotFoundError:
            return True
        except (OSError, ValueError, KeyError):
            return False

    if output is not None:
        check_folder("final: -o", output)
        if not free(output):
            raise Mistake(f"final: -o {output}: holds something else already; name another folder.")
        return output
    folder, count = search / "final", 1
    while not free(folder):
        count += 1
        folder = search / f"final-{count}"
    check_folder("final:", folder)
    return folder


def _resources(candidates: Sequence[Candidate], workers: int | None) -> None:
    """That one run of each configuration fits: on this machine, or where its workers are to run."""
    for wanted in [candidate.export.resources for candidate in candidates]:
        if workers is None:
            concurrent_trials(wanted.model_copy(update={"concurrent": "auto"}), *this_machine_has(wanted))
        else:
            check_room(wanted, workers)


def _tell(
    reports: list[dict[str, Any]],
    comparison: dict[str, Any] | None,
    first: Export,
    standing: Standing,
    fit: Fit,
    test_caveats: Sequence[str],
    folder: Path,
    console: Console,
) -> None:
    metric = first.config.metric
    learned = "train" if fit == "train" else "train and validation, epochs fixed, nothing selected"
    for report in reports:
        console.print(f"{report['name']}, {counted(len(report['seeds']), 'seed')}, learned from {learned}:")
        if (again := report["reseeded"]) is not None:
            console.print(
                f"  on validation: {again['own']:.4f} with the trial's own seed, {again['value']:.4f} with "
                f"{_count(again['seeds'])}"
            )
        console.print(f"  expected over seeds: {metric} {interval_text(report['test'])} on the test set")
        console.print(
            f"  shipped model ({report['shipped']['why']}): {metric} {interval_text(report['shipped']['test'])}"
        )
        console.print(f"  model: {folder / ('model-' + report['name'])}")
        if "ensemble" in report:
            console.print(
                f"  ensemble of its seeds: {metric} {interval_text(report['ensemble']['test'])}",
                f"  ensemble: {folder / ('ensemble-' + report['name'])}",
            )
    if comparison:
        kept = [row["name"] for row in comparison["recipes"] if row["in_question"]]
        console.print(f"Can't be told from the best: {', '.join(kept)}.")
        if comparison["margin"] is not None:
            near = [row["name"] for row in comparison["recipes"] if row["within_margin"]]
            console.print(f"Within {comparison['margin']:g} of the best for sure: {', '.join(near) or 'none'}.")
    console.print(*test_caveats, f"{standing}.", f"Result: {folder / RESULT}")


def _count(seeds: int) -> str:
    return "one other seed" if seeds == 1 else f"{seeds} other seeds, on average"
