from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from trainables.data.manifest import Manifest
from trainables.data.units import Scored, scored, units_of


@pytest.fixture
def breasts(invented: Callable[..., Manifest]) -> Manifest:
    """Two patients: one with both breasts, in rows that don't stand together."""
    manifest = invented([0, 1, 0, 1, 0], groups=["p2", "p1", "p2", "p1", "p1"])
    return replace(
        manifest,
        units=np.array(["p2 left", "p1 left", "p2 left", "p1 right", "p1 left"]),
        truth=np.array([1, 1, 1, 1, 1]),
        attributes={"view": np.array(["CC", "CC", "MLO", "CC", "CC"]), "sex": np.array(["F"] * 5)},
    )


def test_units_stand_in_the_order_of_their_first_row(breasts: Manifest) -> None:
    units = units_of(breasts)
    assert units.of_row.tolist() == [0, 1, 0, 2, 1]
    assert units.groups.tolist() == ["p2", "p1", "p1"] and units.truth.tolist() == [1, 1, 1]
    assert units.attributes["view"].tolist() == ["", "CC", "CC"] and units.attributes["sex"].tolist() == ["F"] * 3


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_predictions_of_views_are_combined(breasts: Manifest, combine: str) -> None:
    probabilities = np.random.default_rng(0).random((2, 5, 3)).astype(np.float32)
    units = units_of(replace(breasts, combine=combine))
    how = {"mean": np.mean, "max": np.max}[combine]
    expected = np.stack([how(probabilities[:, rows], axis=1) for rows in ([0, 2], [1, 4], [3])], axis=1)
    found = units.combined(probabilities)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_rows_that_are_units_stay_as_they_are(invented: Callable[..., Manifest]) -> None:
    units = units_of(invented([0, 1, 1]))
    probabilities = np.eye(3)
    assert units.combined(probabilities) is probabilities


def test_what_a_part_can_be_scored_on(breasts: Manifest, invented: Callable[..., Manifest]) -> None:
    assert scored(breasts) == {"a": Scored(0, 3, 0), "b": Scored(3, 0, 2)}
    findings = invented(np.array([[1, -1], [0, np.nan], [1, 0]]), groups=["p", "p", "p"])
    assert scored(findings) == {"a": Scored(2, 1, 1), "b": Scored(0, 1, 0)}


def test_the_digest_changes_with_what_is_scored(breasts: Manifest) -> None:
    other = replace(breasts, truth=np.array([0, 1, 0, 1, 1]))
    apart = replace(breasts, units=np.array(["a", "b", "c", "d", "b"]))
    digests = {m.digest() for m in (breasts, other, apart, replace(breasts, combine="max"))}
    assert len(digests) == 4
    assert len({units_of(m).digest() for m in (breasts, other, apart, replace(breasts, combine="max"))}) == 4
    named = replace(breasts, units=np.array(["x", "y", "x", "z", "y"]))
    assert named.digest() == breasts.digest(), "what units are called doesn't matter"


def test_units_that_contradict_themselves(breasts: Manifest) -> None:
    breasts.check_units()
    with pytest.raises(ValueError, match="different truths"):
        replace(breasts, truth=np.array([0, 1, 1, 1, 1])).check_units()
    with pytest.raises(ValueError, match="different groups"):
        replace(breasts, groups=np.array(["p2", "p1", "p1", "p1", "p1"])).check_units()
