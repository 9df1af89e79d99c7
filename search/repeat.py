"""The commands that repeat a search and its finals, as a report ends with them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.export import file_of_backbone, file_of_rank
from search.final_result import FinalResult
from search.record import Trial, best, ranked
from spaces.config import Direction, SearchConfig

EXPORT = Path("best.yaml")


def commands(
    config: SearchConfig, trials: Sequence[Trial], direction: Direction, finals: Sequence[FinalResult]
) -> list[str]:
    """`search`, `export` with the files that the finals are of, the finals in the order in which they opened the test
    set, and `report`. A line with # says where a file comes from that none of these commands writes.

    Args:
        trials: the record.
        finals: of this search; with none, the one that would be made of it is told.
    """
    exports: list[str] = []
    runs: list[str] = []
    for final in sorted(finals, key=lambda made: int(made.result["opening"]["opening"])):
        found = [(str(c.report["found"]["search"]), int(c.report["found"]["trial"])) for c in final.configurations]
        option, files = _exported([n for name, n in found if name == config.name], config, trials, direction)
        exports += [_export(config, option)] if files else []
        names = []
        for name, number in found:
            if name == config.name and number in files:
                names.append(files[number])
            else:
                names.append(f"{name}-{number}.yaml")
                runs.append(f"# {names[-1]}: trial {number} of the search {name}, exported from there")
        runs.append(_final(names, final, again=any(run.startswith("medtune") for run in runs)))
    if not finals:
        option, files = _usual(config, trials, direction)
        exports.append(_export(config, option))
        runs.append(shlex.join(["medtune", "final", *files.values()]))
    report = shlex.join(["medtune", "report", config.name, "-o", "report.html"])
    return ["medtune search search.yaml", *dict.fromkeys(exports), *runs, report]


def _usual(config: SearchConfig, trials: Sequence[Trial], direction: Direction) -> tuple[str, dict[int, str]]:
    """What is exported of a search without a final: the best, or the best of each backbone that were compared."""
    of_backbones = _best_of_backbones(config, trials, direction)
    if config.strategy == "compare" and of_backbones:
        return "--per backbone", of_backbones
    return "", {0: str(EXPORT)}


def _exported(
    wanted: Sequence[int], config: SearchConfig, trials: Sequence[Trial], direction: Direction
) -> tuple[str, dict[int, str]]:
    """The option of `export` that writes these trials, and each one's file by its number; a trial that isn't among the
    complete ones has none."""
    order = [trial.number for trial in ranked(trials, direction)]
    ranks = {number: order.index(number) for number in wanted if number in order}
    if set(ranks.values()) == {0}:
        return "", {order[0]: str(EXPORT)}
    of_backbones = _best_of_backbones(config, trials, direction)
    among_the_best = max(ranks.values(), default=0) < len(ranks)
    if ranks.keys() <= of_backbones.keys() and (config.strategy == "compare" or not among_the_best):
        return "--per backbone", {number: of_backbones[number] for number in ranks}
    files = {number: file_of_rank(EXPORT, rank).name for number, rank in ranks.items()}
    return f"--top {max(ranks.values(), default=0) + 1}", files


def _best_of_backbones(config: SearchConfig, trials: Sequence[Trial], direction: Direction) -> dict[int, str]:
    """The file of each backbone's best trial, by its number."""
    found = {name: best([t for t in trials if t.point["backbone"] == name], direction) for name in config.backbones}
    return {trial.number: file_of_backbone(EXPORT, name).name for name, trial in found.items() if trial is not None}


def _export(config: SearchConfig, option: str) -> str:
    return shlex.join(["medtune", "export", config.name, "-o", str(EXPORT), *option.split()])


def _final(files: Sequence[str], final: FinalResult, again: bool) -> str:
    """Args:
    again: whether another final opened the test set before this one.
    """
    opening: dict[str, Any] = final.result["opening"]
    reason = " ".join(str(opening["reason"]).split())
    if again or int(opening["opening"]) > 1:
        reason = reason or "repeated"
    words = ["medtune", "final", *files, "--seeds", str(len(final.configurations[0].report["seeds"]))]
    words += ["--fit", "all"] if final.result["fit"] == "all" else []
    return shlex.join([*words, *(["--again", reason] if reason else [])])
