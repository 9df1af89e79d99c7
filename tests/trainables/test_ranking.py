from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from trainables.ranking import area_under_roc, average_precision


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
def test_values_are_scikit_learns_with_ties(rows: list[tuple[bool, int]]) -> None:
    positive = np.array([True, False, *(p for p, _ in rows)])
    scores = np.array([0, 0, *(s for _, s in rows)], dtype=np.float32) / 7
    assert area_under_roc(positive, scores) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert average_precision(positive, scores) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


def test_perfect_and_reversed() -> None:
    positive = np.array([True, True, False])
    assert (
        area_under_roc(positive, np.array([3.0, 2.0, 1.0])) == average_precision(positive, np.array([3.0, 2, 1])) == 1
    )
    assert area_under_roc(positive, np.array([1.0, 2.0, 3.0])) == 0
    assert average_precision(positive, np.array([1.0, 2.0, 3.0])) == pytest.approx((1 / 2 + 2 / 3) / 2)
