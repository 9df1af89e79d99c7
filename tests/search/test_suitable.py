"""Whether space, metric and strategy suit the dataset: told before the start."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search.plan import check_side
from search.suitable import check_metric, check_sources, check_strategy, check_task, labels_from
from spaces.config import SearchConfig
from spaces.dimensions import Space
from spaces.library import assemble
from spaces.mistakes import Mistake
from trainables.data.manifest import Manifest, Task
from trainables.data.prepared import Prepared
from trainables.data.units import Scored


def config(**changes: Any) -> SearchConfig:
    base = {"name": "a", "dataset": {"reader": "folder", "root": "x"}, "backbones": ["mae_tiny", "dinov2_tiny"]}
    return SearchConfig.parse({**base, **changes}, "s")


def space(**changes: Any) -> Space:
    return assemble(config(space=changes))


def manifest(task: Task, labels: Any) -> Manifest:
    from pathlib import Path

    array = np.array(labels, dtype=np.float32 if task == "multilabel" else np.int64)
    names = np.array([str(i) for i in range(len(array))])
    return Manifest(
        root=Path("x"), task=task, classes=("a", "b"), metric="accuracy", policy="none", paths=names, contents=names,
        labels=array, groups=names, official=np.array([""] * len(array)),
    )  # fmt: skip


CLASSES, GRADES = manifest("classification", [0, 1]), manifest("ordinal", [0, 1])
FINDINGS = manifest("multilabel", [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("changes", "of", "words"),
    [
        ({}, CLASSES, []),
        ({}, GRADES, []),
        ({}, FINDINGS, []),
        ({"loss": "regression"}, GRADES, []),
        ({"loss": {"choice": ["cross_entropy", "ordinal"]}}, CLASSES, ["loss: ordinal is for grades"]),
        ({"loss": "regression"}, FINDINGS, ["loss: regression is for grades"]),
        ({"logit_adjustment": {"choice": [0.0, 1.0]}}, FINDINGS, ["logit_adjustment: 1.0"]),
        ({"logit_adjustment": {"float": [0.5, 1.5]}}, FINDINGS, ["logit_adjustment: 0.5, 1.5"]),
        ({"logit_adjustment": 1.0}, CLASSES, []),
        ({"uncertain": {"choice": ["zeros", "ones"]}, "blank": "ignore"}, FINDINGS, []),
        (
            {"uncertain": {"choice": ["zeros", "ones"]}, "blank": "ignore"},
            GRADES,
            ["uncertain: zeros", "blank: ignore"],
        ),
        ({"mixup": 0.2, "sampling": "balanced", "class_weights": "effective"}, FINDINGS, []),
        ({"loss": "ordinal", "focal": 2.0}, GRADES, ["focal: is fixed at 2"]),
        ({"loss": {"choice": ["cross_entropy", "ordinal"]}, "focal": {"choice": [0.0, 2.0]}}, GRADES, []),
    ],
)
def test_values_that_mean_nothing_for_the_task(changes: dict[str, Any], of: Manifest, words: list[str]) -> None:
    problems: tuple[str, ...] = ()
    try:
        check_task(space(**changes), of)
    except Mistake as mistake:
        problems = mistake.sentences
    assert len(problems) == len(words)
    for word, sentence in zip(words, problems, strict=True):
        assert word in sentence


def prepared(of: Manifest, test: dict[str, Scored], folds: list[list[int]] | None = None) -> Prepared:
    rows = np.arange(len(of))
    parts = [(np.setdiff1d(rows, fold), np.array(fold)) for fold in folds or [rows.tolist()]]
    return Prepared(
        manifest=of, train=parts[0][0], validation=parts[0][1], folds=tuple(parts), data_digest="", split_digest="",
        test_digest="", test_counts={}, test_scored=test,
    )  # fmt: skip


GOOD = {"a": Scored(4, 4, 4), "b": Scored(4, 4, 4)}


@pytest.mark.parametrize(
    ("metric", "of", "test", "folds", "words"),
    [
        ("balanced_accuracy", CLASSES, GOOD, None, []),
        ("balanced_accuracy", FINDINGS, GOOD, None, ["isn't for findings", "macro_auroc"]),
        ("quadratic_weighted_kappa", CLASSES, GOOD, None, ["isn't for classes without an order"]),
        ("quadratic_weighted_kappa", GRADES, GOOD, None, []),
        ("quadratic_weighted_kappa", manifest("ordinal", [1, 1]), GOOD, None, ["validation set, which has one grade"]),
        ("accuracy", manifest("classification", [1, 1]), GOOD, None, []),
        ("macro_f1", CLASSES, {"a": Scored(0, 9, 0), "b": Scored(9, 0, 9)}, None, ["test set, which has none of a"]),
        ("macro_auroc", FINDINGS, GOOD, None, []),
        (
            "macro_auroc",
            manifest("multilabel", [[1, 1], [1, 0]]),
            GOOD,
            None,
            ["validation set, where everything is a"],
        ),
        ("macro_auroc", manifest("multilabel", [[1, np.nan], [0, 0]]), GOOD, None, ["has none of b"]),
        (
            "macro_auroc",
            manifest("classification", [0, 1, 0, 0]),
            GOOD,
            [[0, 1], [2, 3]],
            ["fold 2, which has none of b"],
        ),
    ],
)
def test_a_metric_that_cannot_be_defined(
    metric: str, of: Manifest, test: dict[str, Scored], folds: list[list[int]] | None, words: list[str]
) -> None:
    told = ""
    try:
        check_metric(metric, prepared(of, test, folds))
    except Mistake as mistake:
        told = str(mistake)
    assert bool(told) == bool(words)
    for word in words:
        assert word in told


LACKING = {"a": Scored(9, 9, 9), "b": Scored(0, 9, 0)}


def test_a_metric_over_classes_that_were_chosen() -> None:
    of = manifest("multilabel", [[0, 0], [1, 0]])
    check_metric("macro_auroc", prepared(of, LACKING), ["a"])
    for averaged in (None, ["b"], ["a", "b"]):
        with pytest.raises(Mistake, match="which has none of b"):
            check_metric("macro_auroc", prepared(of, LACKING), averaged)
    with pytest.raises(Mistake, match=r'classes_averaged: the dataset has no class "bb"\. Did you mean "b"\?') as told:
        check_metric("macro_auroc", prepared(FINDINGS, GOOD), ["a", "bb"])
    assert len(told.value.sentences) == 1
    with pytest.raises(Mistake, match="balanced_accuracy is of all classes"):
        check_metric("balanced_accuracy", prepared(CLASSES, GOOD), ["a"])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"classes_averaged": ["a", "a"]}, "twice"),
        ({"classes_averaged": []}, "1 or more entries"),
        ({"comparison": {"margin": 0}}, "greater than 0"),
        ({"comparison": {"margins": 0.1}}, 'Did you mean "margin"'),
        ({"operating_point": {"target": "recall"}}, "operating_point.target"),
        ({"operating_point": {"at": 1}}, "less than 1"),
    ],
)
def test_what_is_settled_before_the_search_is_strict(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(Mistake, match=word):
        config(**changes)


def test_a_comparison_needs_an_equal_share_for_each_backbone() -> None:
    check_strategy(config(budget={"trials": 7}))
    check_strategy(config(strategy="compare", budget={"trials": 8}))
    for trials, ways in ((7, "6 or 8"), (1, "write 2")):
        with pytest.raises(Mistake, match=ways):
            check_strategy(config(strategy="compare", budget={"trials": trials}))
    with pytest.raises(Mistake, match="two backbones"):
        check_strategy(config(strategy="compare", backbones=["mae_tiny"]))


def test_labels_of_two_sources_do_not_share_a_part() -> None:
    four = manifest("multilabel", [[0, 1], [1, 0], [0, 1], [1, 0]])
    folds = [[0, 1], [2, 3]]
    apart = np.array(["reports", "reports", "radiologists", "radiologists"])
    check_sources(prepared(replace(four, attributes={"labels from": apart}), GOOD, folds))
    with pytest.raises(Mistake, match="reports"):
        check_sources(prepared(replace(four, attributes={"labels from": apart[[0, 2, 1, 3]]}), GOOD, folds))
    check_sources(prepared(four, GOOD, folds))
    said = replace(four, attributes={"labels from": apart})
    assert [labels_from(said.take(np.array(rows))) for rows in folds] == ["reports", "radiologists"]
    assert labels_from(said) == "radiologists and reports" and labels_from(four) == ""


def test_a_side_needs_a_breast() -> None:
    dataset = config().dataset
    check_side(dataset.model_copy(update={"side": "left", "crop": "breast"}))
    with pytest.raises(Mistake, match="crop: breast"):
        check_side(dataset.model_copy(update={"side": "left", "crop": "none"}))
