"""Do the intervals hold what they promise? Simulated test sets of groups whose true metrics are known.

    make bench-statistics    (python -m benchmarks.statistics [--replicates 2000] [--groups 5 10 20 50]
                             [--cases WORD ...] [--processes N] [--json FILE])

Groups (patients, lesions) have 1 to 3 images and one label. What makes an image hard is a sum of normal effects: of the
group, of the image, and, where several recipes with several seeds are compared, of how each recipe and each seed sees
the group, and of the seed as a whole. From them follow predictions, and in closed form the true value of the metric.
Prints, by the number of groups in the rarest class:

- how often the 95% interval holds the true metric, and the same for a bootstrap over images, which takes the images of
  a group for independent; how often the interval over seeds holds the expected metric of a recipe with 5 seeds;
- how often a paired comparison of two recipes of equal quality, with 5 seeds each, finds a difference at the 5% level;
- how often a recipe that equals the best is kept, out of 5 equal ones, and how often one that is truly worse is not;
- of the expected calibration error, which medtune gives without an interval: how often a bootstrap's 95% interval would
  hold its true value, and how often the error lies above that, of 8 classes' probabilities that are right and of such
  that are too sure. Here the groups are of one image, eight times as many as in the table's head.

BCa intervals draw 1,000 resamples here instead of 10,000, what needs only covariances 500, a calibration error 200.
Test sets are simulated one after the other in as many processes of one thread as there are cores; the same replicates
give the same figures in any number of them. One case a call, with the figures in a file, spreads the work over whatever
time there is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import softmax
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from trainables.comparison import comparison_with_best, paired_difference
from trainables.intervals import group_bootstrap, seed_interval
from trainables.metrics import binned, compute

RESAMPLES = 1000
FOR_COVARIANCES = 500
SIZES = (5, 10, 20, 50)
ENOUGH = 20  # groups in the rarest class from which on the intervals have to hold
OVER = ("groups", "images")
SEEDS = 5
RECIPES = 5
BETWEEN_SEEDS = 0.1
WORSE = 0.5  # in the unit of the latent effects: about ten points of recall
SHARES = {"group": 0.4, "image": 0.2, "recipe x group": 0.2, "seed x group": 0.1, "seed x image": 0.1}
RECALLS = np.linspace(0.6, 0.9, 8)
SEPARATION = 1.5  # of the two classes, in standard deviations
PREVALENCES = np.array([0.4, 0.15, 0.25, 0.1, 0.1])
SPREAD = 0.8  # of a predicted grade around the true one, in grades
CALIBRATION, CLASSES, LOGITS = "expected calibration error, 8 classes", 8, 2.0  # and the standard deviation of logits
FOR_ERROR = 200  # resamples
SURENESS = {"right": 1.0, "too sure": 1.5}  # logits are multiplied by it
MANY = 400_000  # rows that stand for all there are


@dataclass(frozen=True)
class Sample:
    """A simulated test set: R recipes, S seeds, N images."""

    labels: np.ndarray
    """[N]"""
    probabilities: np.ndarray
    """[R, S, N, C]"""
    groups: np.ndarray
    """[N]"""


@dataclass(frozen=True)
class Case:
    """A metric on a kind of test set."""

    name: str
    metric: str
    labels: Callable[[int, np.random.Generator], np.ndarray]
    """Label of each group [G], from the number of groups in the rarest class."""
    predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    """Probabilities [R, S, N, C] from labels [N], effects of images [R, S, N] and of seeds [R, S, 1]: higher effects
    make worse predictions."""
    truth: Callable[[float], float]
    """The expected metric, from the standard deviation between seeds."""


def effects(group_of_row: np.ndarray, recipes: int, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Of images [R, S, N]: standard normal, with parts that images of a group, recipes and seeds have in common."""
    groups, rows = int(group_of_row.max()) + 1, len(group_of_row)
    drawn = {
        "group": rng.normal(size=(1, 1, groups))[..., group_of_row],
        "image": rng.normal(size=(1, 1, rows)),
        "recipe x group": rng.normal(size=(recipes, 1, groups))[..., group_of_row],
        "seed x group": rng.normal(size=(recipes, seeds, groups))[..., group_of_row],
        "seed x image": rng.normal(size=(recipes, seeds, rows)),
    }
    return np.sum([math.sqrt(SHARES[name]) * part + np.zeros((recipes, seeds, 1)) for name, part in drawn.items()], 0)


def draw(
    case: Case,
    rare: int,
    rng: np.random.Generator,
    recipes: int = 1,
    seeds: int = 1,
    between_seeds: float = 0.0,
    worse: np.ndarray | float = 0.0,
) -> Sample:
    """A test set with so many groups in the rarest class; `worse` [R] is by how much each recipe is."""
    labels = case.labels(rare, rng)
    group_of_row = np.repeat(np.arange(len(labels)), rng.integers(1, 4, len(labels)))
    labels = labels[group_of_row]
    of_seed = between_seeds * rng.normal(size=(recipes, seeds, 1)) + np.reshape(worse, (-1, 1, 1))
    probabilities = case.predict(labels, effects(group_of_row, recipes, seeds, rng), of_seed)
    return Sample(labels, probabilities, group_of_row)


def decided(labels: np.ndarray, effect: np.ndarray, of_seed: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """A class predicted rightly where the effects stay below what the class' recall asks for."""
    right = effect + of_seed < norm.ppf(recalls)[labels]
    return np.eye(len(recalls))[np.where(right, labels, (labels + 1) % len(recalls))]


def ranked(labels: np.ndarray, effect: np.ndarray, of_seed: np.ndarray) -> np.ndarray:
    """Scores of two classes, normal and so far apart as the seed has them."""
    positive = norm.cdf((SEPARATION - of_seed) * labels - effect)
    return np.stack([1 - positive, positive], axis=-1)


def graded(labels: np.ndarray, effect: np.ndarray, of_seed: np.ndarray) -> np.ndarray:
    """The true grade and an error of the spread that the seed has, rounded."""
    spread = SPREAD * np.exp(of_seed / 2)
    return np.eye(len(PREVALENCES))[np.clip(np.round(labels + spread * effect), 0, 4).astype(int)]


def true_recall(recalls: np.ndarray, between_seeds: float) -> float:
    return float(norm.cdf(norm.ppf(recalls) / math.hypot(1, between_seeds)).mean())


def true_auroc(between_seeds: float) -> float:
    return float(norm.cdf(SEPARATION / math.sqrt(2 + between_seeds**2)))


def true_kappa(between_seeds: float) -> float:
    """Kappa of the confusion matrix of infinitely many images; the mean over seeds by Gauss-Hermite quadrature."""
    nodes, weight = np.polynomial.hermite_e.hermegauss(31)
    grades, edges = np.arange(5), np.array([-np.inf, 0.5, 1.5, 2.5, 3.5, np.inf])
    penalty = (grades[:, None] - grades) ** 2
    values = []
    for node in nodes:
        spread = SPREAD * np.exp(between_seeds * node / 2)
        confusion = PREVALENCES[:, None] * np.diff(norm.cdf((edges - grades[:, None]) / spread), axis=1)
        by_chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0))
        values.append(1 - (penalty * confusion).sum() / (penalty * by_chance).sum())
    return float(np.average(values, weights=weight))


def eight_classes(rare: int, rng: np.random.Generator) -> np.ndarray:
    return np.repeat(np.arange(8), [max(60, rare)] * 5 + [rare] * 3)


def two_classes(rare: int, rng: np.random.Generator) -> np.ndarray:
    return np.repeat([0, 1], [rare, rare])


def three_negatives_each(rare: int, rng: np.random.Generator) -> np.ndarray:
    return np.repeat([0, 1], [3 * rare, rare])


def grades_as_they_come(rare: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(5, p=PREVALENCES, size=round(rare / PREVALENCES.min()))


CASES = [
    Case(
        "balanced accuracy, 8 classes, 3 rare", "balanced_accuracy", eight_classes,
        partial(decided, recalls=RECALLS), partial(true_recall, RECALLS),
    ),
    Case(
        "balanced accuracy, 2 classes", "balanced_accuracy", two_classes,
        partial(decided, recalls=RECALLS[[3, 6]]), partial(true_recall, RECALLS[[3, 6]]),
    ),
    Case("AUROC", "macro_auroc", three_negatives_each, ranked, true_auroc),
    Case("quadratic weighted kappa, 5 grades", "quadratic_weighted_kappa", grades_as_they_come, graded, true_kappa),
]  # fmt: skip
NAMES = {case.name: case for case in CASES}


def covered(case: Case, rare: int, over: str, seed: int) -> float:
    """Whether the interval holds the true metric, 1 or 0; NaN where there is none."""
    rng = np.random.default_rng([seed, rare])
    seeds, between = (SEEDS, BETWEEN_SEEDS) if over == "seeds" else (1, 0.0)
    sample = draw(case, rare, rng, seeds=seeds, between_seeds=between)
    groups = np.arange(len(sample.labels)) if over == "images" else sample.groups
    interval = seed_interval if over == "seeds" else group_bootstrap
    resamples = FOR_COVARIANCES if over == "seeds" else RESAMPLES
    classes = sample.probabilities.shape[-1]
    found = interval(
        case.metric, sample.labels, sample.probabilities[0], groups, classes=classes, resamples=resamples, seed=seed
    )
    if found.low is None or found.high is None:
        return math.nan
    return float(found.low <= case.truth(between) <= found.high)


def told_apart(case: Case, rare: int, seed: int) -> float:
    """Whether two recipes of equal quality are found to differ."""
    sample = draw(case, rare, np.random.default_rng([seed, rare]), 2, SEEDS, BETWEEN_SEEDS)
    a, b = sample.probabilities
    found = paired_difference(
        case.metric, sample.labels, a, b, sample.groups, classes=a.shape[-1], resamples=FOR_COVARIANCES, seed=seed
    )
    return math.nan if found.p is None else float(found.p < 0.05)


def kept(case: Case, rare: int, worse: float, seed: int) -> float:
    """Share of recipes in question: of all, which are equally good, or of all but the best, the others being worse."""
    by = np.append(0.0, np.full(RECIPES - 1, worse))
    sample = draw(case, rare, np.random.default_rng([seed, rare]), RECIPES, SEEDS, BETWEEN_SEEDS, by)
    found = comparison_with_best(
        case.metric, sample.labels, {str(i): p for i, p in enumerate(sample.probabilities)}, sample.groups,
        classes=sample.probabilities.shape[-1], resamples=RESAMPLES, seed=seed,
    )  # fmt: skip
    if found.recipes[0].high is None:
        return math.nan
    return float(np.mean([recipe.in_question for recipe in found.recipes if not worse or recipe.name != "0"]))


def of_logits(rows: int, sureness: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities of images [N, C], and those that a model gives."""
    logits = rng.normal(scale=LOGITS, size=(rows, CLASSES))
    return softmax(logits, axis=1), softmax(sureness * logits, axis=1)


@cache
def true_error(sureness: float) -> float:
    """The calibration error on all images there are, whose labels needn't be drawn: 0 where probabilities are right."""
    true, given = of_logits(MANY, sureness, np.random.default_rng(0))
    bins = binned(true[np.arange(MANY), given.argmax(axis=1)], given.max(axis=1))
    return float(np.average(np.abs(bins.confidence - bins.share), weights=bins.rows))


def labelled(rare: int, sureness: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] and given probabilities [N, C] of a test set with so many images a class on average."""
    true, given = of_logits(CLASSES * rare, sureness, rng)
    return (true.cumsum(axis=1)[:, :-1] < rng.random((len(true), 1))).sum(axis=1), given


def error_covered(rare: int, sureness: float, seed: int) -> float:
    """Whether a percentile interval of the calibration error holds the true one."""
    rng = np.random.default_rng([seed, rare])
    labels, given = labelled(rare, sureness, rng)
    drawn = rng.integers(0, len(labels), (FOR_ERROR, len(labels)))
    low, high = np.quantile([compute("ece", labels[rows], given[rows], CLASSES) for rows in drawn], [0.025, 0.975])
    return float(low <= true_error(sureness) <= high)


def error_above(rare: int, sureness: float, seed: int) -> float:
    """Whether the calibration error lies above the true one."""
    labels, given = labelled(rare, sureness, np.random.default_rng([seed, rare]))
    return float(compute("ece", labels, given, CLASSES) > true_error(sureness))


@dataclass(frozen=True)
class Figure:
    """One share, over all replicates that gave one."""

    case: str
    groups: int
    """In the rarest class."""
    question: str
    share: float
    standard_error: float
    undefined: float
    """Share of replicates without an interval."""


def figure(case: str, rare: int, question: str, ask: Callable[[int], float], replicates: int, pool: Executor) -> Figure:
    """Asks `ask(seed)` of so many replicates."""
    found = np.array(list(pool.map(ask, range(replicates), chunksize=max(1, replicates // 40))))
    given = found[np.isfinite(found)]
    share = float(given.mean()) if len(given) else math.nan
    error = float(given.std() / math.sqrt(len(given))) if len(given) else math.nan
    return Figure(case, rare, question, share, error, 1 - len(given) / replicates)


def asked_of(case: Case, rare: int) -> dict[str, Callable[[int], float]]:
    """Questions about one case."""
    asked: dict[str, Callable[[int], float]] = {
        f"95% interval, bootstrap over {over}": partial(covered, case, rare, over) for over in OVER
    }
    asked["95% interval over seeds and groups"] = partial(covered, case, rare, "seeds")
    asked["level of paired comparison"] = partial(told_apart, case, rare)
    asked["equal to the best, kept"] = partial(kept, case, rare, 0.0)
    if rare >= ENOUGH:
        asked["worse than the best, kept"] = partial(kept, case, rare, WORSE)
    return asked


def asked_of_errors(rare: int) -> dict[str, Callable[[int], float]]:
    """Questions about the calibration error."""
    asked: dict[str, Callable[[int], float]] = {}
    for what, sureness in SURENESS.items():
        asked[f"95% interval, probabilities {what}"] = partial(error_covered, rare, sureness)
        asked[f"above the true error, probabilities {what}"] = partial(error_above, rare, sureness)
    return asked


def figures(
    sizes: Sequence[int], replicates: int, pool: Executor, cases: Sequence[str] = (*NAMES, CALIBRATION)
) -> Iterator[Figure]:
    """All that the module's docstring lists, of some cases by their names."""
    for name in cases:
        for rare in sizes:
            asked = asked_of_errors(rare) if name == CALIBRATION else asked_of(NAMES[name], rare)
            for question, ask in asked.items():
                yield figure(name, rare, question, ask, replicates, pool)


def workers(processes: int | None = None) -> ProcessPoolExecutor:
    """Processes of one thread each, by default as many as there are cores for this one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ProcessPoolExecutor(processes or cores, initializer=threadpool_limits, initargs=(1,))


def table(found: list[Figure]) -> Table:
    sizes = sorted({one.groups for one in found})
    shown = Table("test set", "question", *(f"{size} groups" for size in sizes), title="groups: in the rarest class")
    by_row: dict[tuple[str, str], dict[int, Figure]] = {}
    for one in found:
        by_row.setdefault((one.case, one.question), {})[one.groups] = one
    for (case, question), row in by_row.items():
        cells = []
        for size in sizes:
            at_size = row.get(size)
            if at_size is None:
                cells.append("")
                continue
            none = f", none in {at_size.undefined:.1%}" if at_size.undefined else ""
            cells.append(f"{at_size.share:.3f} +- {at_size.standard_error:.3f}{none}")
        shown.add_row(case, question, *cells)
    return shown


def main(given: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--replicates", type=int, default=2000)
    options.add_argument("--groups", type=int, nargs="+", default=SIZES, help="in the rarest class")
    options.add_argument("--cases", nargs="+", help="only those whose name holds one of these words")
    options.add_argument("--processes", type=int, help="by default as many as there are cores")
    options.add_argument("--json", type=Path)
    arguments = options.parse_args(given)
    names = [*NAMES, CALIBRATION]
    cases = [name for name in names if not arguments.cases or any(word in name for word in arguments.cases)]
    if not cases:
        options.error(f"--cases: none holds such a word; there are {'; '.join(names)}")
    started, console, found = time.monotonic(), Console(), []
    with workers(arguments.processes) as pool:
        for one in figures(arguments.groups, arguments.replicates, pool, cases):
            found.append(one)
            console.print(f"{one.case}, {one.groups} groups: {one.question} {one.share:.3f}", highlight=False)
    seconds = time.monotonic() - started
    console.print(table(found), f"{arguments.replicates} replicates each, {seconds:.0f} s")
    if arguments.json:
        plain = {"replicates": arguments.replicates, "seconds": seconds, "figures": [asdict(one) for one in found]}
        arguments.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
