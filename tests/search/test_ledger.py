"""The ledger of test openings: only ever added to, whole again after a torn write."""

from pathlib import Path

import pytest

from search.ledger import NAME, Ledger, SealedTest
from spaces.mistakes import Mistake

T = SealedTest("t", "i")


def test_a_further_look_needs_a_reason(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.refuse_unexplained(T, "a", None)
    assert ledger.open(T, "a", ("s",), 2, None).opening == 1
    assert ledger.open(T, "a", ("s",), 2, None).opening == 1  # the same again
    with pytest.raises(Mistake, match="--again"):
        ledger.refuse_unexplained(T, "b", None)
    with pytest.raises(Mistake, match="--again"):
        ledger.refuse_unexplained(T, "b", "  ")
    with pytest.raises(Mistake, match="--again"):  # somebody was quicker
        ledger.open(T, "b", ("s",), 1, None)
    standing = ledger.open(T, "b", ("s", "u"), 1, "why not")
    assert (standing.opening, standing.searches, standing.configurations) == (2, 2, 3)
    assert ledger.open(SealedTest("other", "o"), "b", ("s",), 1, None).opening == 1


def test_torn_at_every_byte(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open(T, "a", ("s",), 1, None)
    ledger.open(T, "b", ("s",), 1, "r")
    whole = (tmp_path / NAME).read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        (tmp_path / NAME).write_bytes(whole[:cut])
        assert ledger.standing(T).opening == 1
        assert ledger.open(T, "c", ("s",), 1, "after a crash").opening == 2
        assert [o.what for o in ledger.openings(T)] == ["a", "c"]


def test_the_same_images_under_other_groups_are_the_same_test(tmp_path: Path) -> None:
    """How images are grouped is an option, and leaves what is looked at as it is."""
    ledger = Ledger(tmp_path)
    ledger.open(T, "a", ("s",), 1, None)
    regrouped = SealedTest("u", "i")
    for what in ("a", "b"):  # found alike or not: it learned from another split
        with pytest.raises(Mistake, match="opened before"):
            ledger.open(regrouped, what, ("v",), 1, None)
    standing = ledger.open(regrouped, "b", ("v",), 1, "to compare")
    assert (standing.opening, standing.searches) == (2, 2) and ledger.standing(T) == standing
    assert ledger.standing(SealedTest("u", "")).opening == 1, "of a search that doesn't know its test's images"
    assert ledger.standing(SealedTest("w", "")).opening == 0


def test_lines_of_earlier_versions_are_counted(tmp_path: Path) -> None:
    """They hold no digest of images."""
    line = '{"test": "t", "what": "a", "searches": ["s"], "configurations": 2, "reason": "", "time": 1.0}'
    (tmp_path / NAME).write_text(f"{line}\n")
    ledger = Ledger(tmp_path)
    assert ledger.open(T, "a", ("s",), 2, None).opening == 1
    with pytest.raises(Mistake, match="opened before"):
        ledger.refuse_unexplained(T, "b", None)
    assert ledger.standing(SealedTest("u", "i")).opening == 0
