"""A small version of the benchmark of the statistics, with limits that a wrong interval would break."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.statistics import (
    CALIBRATION,
    CASES,
    ENOUGH,
    SURENESS,
    Case,
    covered,
    draw,
    error_above,
    error_covered,
    kept,
    labelled,
    main,
    told_apart,
    true_error,
)
from trainables.metrics import compute

ROOT = Path(__file__).parents[1]
REPLICATES = 250  # a share of .95 then has a standard error of .014
BY_METRIC = {case.metric: case for case in CASES}


def share(ask: Callable[[int], float], replicates: int = REPLICATES) -> float:
    return float(np.mean([ask(seed) for seed in range(replicates)]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_true_value_is_that_of_very_many_images(case: Case) -> None:
    sample = draw(case, 4000, np.random.default_rng(0), seeds=20, between_seeds=0.3)
    classes = sample.probabilities.shape[-1]
    values = [compute(case.metric, sample.labels, p, classes) for p in sample.probabilities[0]]
    assert np.mean(values) == pytest.approx(case.truth(0.3), abs=4 * np.std(values) / np.sqrt(20))
    single = draw(case, 20_000, np.random.default_rng(0))
    found = compute(case.metric, single.labels, single.probabilities[0, 0], classes)
    assert found == pytest.approx(case.truth(0.0), abs=0.01)


@pytest.mark.parametrize("metric", BY_METRIC)
def test_intervals_over_groups_cover_and_over_images_do_not(metric: str) -> None:
    over_groups = share(partial(covered, BY_METRIC[metric], ENOUGH, "groups"))
    over_images = share(partial(covered, BY_METRIC[metric], ENOUGH, "images"))
    assert 0.915 < over_groups < 0.985
    assert over_images < over_groups - 0.03


def test_intervals_over_seeds_cover_the_expected_metric() -> None:
    assert 0.91 < share(partial(covered, BY_METRIC["macro_auroc"], ENOUGH, "seeds")) < 0.985


def test_the_level_of_paired_comparisons() -> None:
    assert 0.015 < share(partial(told_apart, BY_METRIC["quadratic_weighted_kappa"], ENOUGH)) < 0.085


def test_who_equals_the_best_is_kept_and_who_is_worse_is_not() -> None:
    case = BY_METRIC["quadratic_weighted_kappa"]
    assert 0.94 < share(partial(kept, case, ENOUGH, 0.0), 60) < 1  # out of five equal ones each is out once in a while
    assert share(partial(kept, case, ENOUGH, 1.0), 20) < 0.5


def test_the_true_calibration_error_is_that_of_very_many_images() -> None:
    assert true_error(SURENESS["right"]) == 0
    labels, given = labelled(20_000, SURENESS["too sure"], np.random.default_rng(1))
    assert compute("ece", labels, given, given.shape[1]) == pytest.approx(true_error(SURENESS["too sure"]), abs=0.005)


def test_of_few_images_the_calibration_error_lies_above_its_true_value() -> None:
    """Which is why it is given without an interval: a bootstrap's doesn't hold it."""
    right = SURENESS["right"]
    assert share(partial(error_above, 5, right), 60) == 1
    assert share(partial(error_covered, 5, right), 20) == 0
    sure = SURENESS["too sure"]
    assert share(partial(error_above, 5, sure), 60) > 0.6
    assert share(partial(error_covered, 5, sure), 40) < 0.9


def test_all_of_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.statistics", "--replicates", "2", "--groups", "5"]
    done = subprocess.run(
        [*command, "--json", tmp_path / "found.json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {one["case"] for one in found["figures"]} == {*(case.name for case in CASES), CALIBRATION}
    assert len({one["question"] for one in found["figures"]}) == 9
    assert all(0 <= one["share"] <= 1 for one in found["figures"])


def test_some_cases_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same figures as among all, in one process."""
    few = ["--replicates", "3", "--groups", "5", "--processes", "1", "--json", str(tmp_path / "found.json")]
    main([*few, "--cases", "2 classes", "kappa"])
    found = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert {one["case"] for one in found} == {"balanced accuracy, 2 classes", "quadratic weighted kappa, 5 grades"}
    case = BY_METRIC["quadratic_weighted_kappa"]
    [one] = [one for one in found if one["case"] == case.name and "over groups" in one["question"]]
    assert one["share"] == pytest.approx(share(partial(covered, case, 5, "groups"), 3))
    with pytest.raises(SystemExit) as ended:
        main(["--cases", "nothing"])
    assert ended.value.code == 2 and "none holds such a word" in capsys.readouterr().err
