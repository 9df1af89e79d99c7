"""What a validation set can show: held against repeated draws of its predictions, and against known figures."""

import numpy as np
import pytest

from search import learnable as module
from search.learnable import SKILL, expected_maximum, few_groups, learnable
from trainables.data.manifest import Task
from trainables.data.units import Scored, Units
from trainables.metrics import compute


def units(truth: np.ndarray, groups: np.ndarray) -> Units:
    return Units(np.arange(len(truth)), truth, groups.astype(np.str_), "mean", {})


def drawn(task: Task, groups: int, images_a_group: int = 1) -> Units:
    """Units of a group have the same truth, as the images of a lesion do."""
    generator = np.random.default_rng(5)
    if task == "multilabel":
        truth = (generator.random((groups, 3)) < [0.2, 0.3, 0.5]).astype(np.float32)
        truth[generator.random(truth.shape) < 0.1] = np.nan
    else:
        truth = generator.choice(4, groups, p=[0.4, 0.3, 0.2, 0.1])
    return units(np.repeat(truth, images_a_group, axis=0), np.repeat(np.arange(groups), images_a_group))


def test_the_maximum_of_normal_numbers() -> None:
    assert [round(expected_maximum(n), 2) for n in (1, 2, 24, 100, 300)] == [0, 0.56, 1.95, 2.51, 2.88]


@pytest.mark.parametrize(
    ("metric", "task", "classes"),
    [
        ("balanced_accuracy", "classification", 4),
        ("macro_auroc", "classification", 4),
        ("quadratic_weighted_kappa", "ordinal", 4),
        ("macro_auroc", "multilabel", 3),
    ],
)
def test_errors_are_those_of_new_groups(metric: str, task: Task, classes: int) -> None:
    """The jackknifed figures against the spread of the metric over sets with groups and predictions drawn anew."""
    sample = drawn(task, 200, images_a_group=2)
    found = learnable(metric, sample, classes, task, trials=100)
    assert found.standard_error is not None and found.smallest is not None and found.optimism is not None
    generator = np.random.default_rng(1)
    group = np.arange(400) // 2
    strength = module._strength(metric, sample.truth, group, classes, task, generator)
    values = []
    for _ in range(120):
        chosen = np.repeat(generator.integers(0, 200, 200), 2) * 2 + np.tile([0, 1], 200)
        truth = sample.truth[chosen]
        common = module._noise((400, classes), group, generator)
        pair = [
            np.sqrt(module.SHARED) * common
            + np.sqrt(1 - module.SHARED) * module._noise((400, classes), group, generator)
            for _ in range(2)
        ]
        values.append(
            [compute(metric, truth, module._predictions(truth, n, classes, task, strength), classes) for n in pair]
        )
    one, other = np.array(values).T
    assert one.mean() == pytest.approx(SKILL, abs=0.04), "the signal is found on one draw of the noise"
    assert found.standard_error == pytest.approx(one.std(), rel=0.3)
    assert found.smallest == pytest.approx(2.8016 * (one - other).std(), rel=0.3)
    assert found.optimism == pytest.approx(2.508 * (one - other).std() / 2**0.5, rel=0.3)


def test_more_groups_show_more_and_more_trials_are_more_optimistic() -> None:
    few, many = (learnable("macro_auroc", drawn("classification", n), 4, "classification", 50) for n in (200, 3200))
    assert few.smallest is not None and many.smallest is not None
    assert few.smallest / many.smallest == pytest.approx(4, rel=0.25)
    assert few.ranks_noise and not many.ranks_noise
    copies = learnable("macro_auroc", drawn("classification", 200, images_a_group=16), 4, "classification", 50)
    assert (copies.units, copies.groups) == (3200, 200)
    assert copies.smallest is not None and copies.smallest > 2 * many.smallest, "images of a group say little more"
    lone = learnable("macro_auroc", drawn("classification", 200), 4, "classification", 1)
    assert lone.optimism == 0 and not lone.ranks_noise


def test_what_cannot_be_told_has_a_reason() -> None:
    for truth, groups, reason in (
        (np.array([0, 1, 0, 1]), np.zeros(4), "one group"),
        (np.array([0, 0, 0, 1]), np.arange(4), "leaving out"),
        (np.array([0, 0, 0, 0]), np.arange(4), "class"),
    ):
        found = learnable("balanced_accuracy", units(truth, groups), 2, "classification", 10)
        assert found.standard_error is None and reason in found.reason


def test_few_groups() -> None:
    assert few_groups({"a": Scored(50, 50, 9), "b": Scored(50, 50, 10)}) == {"a": 9}
