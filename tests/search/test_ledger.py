"""The ledger of test openings: only ever added to, whole again after a torn write."""

from pathlib import Path

import pytest

from search.ledger import NAME, Ledger
from spaces.mistakes import Mistake


def test_a_further_look_needs_a_reason(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.refuse_unexplained("t", "a", None)
    assert ledger.open("t", "a", ("s",), 2, None).opening == 1
    assert ledger.open("t", "a", ("s",), 2, None).opening == 1  # the same again
    with pytest.raises(Mistake, match="--again"):
        ledger.refuse_unexplained("t", "b", None)
    with pytest.raises(Mistake, match="--again"):
        ledger.refuse_unexplained("t", "b", "  ")
    with pytest.raises(Mistake, match="--again"):  # somebody was quicker
        ledger.open("t", "b", ("s",), 1, None)
    standing = ledger.open("t", "b", ("s", "u"), 1, "why not")
    assert (standing.opening, standing.searches, standing.configurations) == (2, 2, 3)
    assert ledger.open("other", "b", ("s",), 1, None).opening == 1


def test_torn_at_every_byte(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open("t", "a", ("s",), 1, None)
    ledger.open("t", "b", ("s",), 1, "r")
    whole = (tmp_path / NAME).read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        (tmp_path / NAME).write_bytes(whole[:cut])
        assert ledger.standing("t").opening == 1
        assert ledger.open("t", "c", ("s",), 1, "after a crash").opening == 2
        assert [o.what for o in ledger.openings("t")] == ["a", "c"]
