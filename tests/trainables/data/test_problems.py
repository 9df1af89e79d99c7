"""What is printed of many problems, and what is kept of them all."""

import pickle

import pytest

from spaces.mistakes import Mistake
from trainables.data.problems import SHOWN, Problems


def test_ten_of_a_kind_are_shown_and_all_are_kept() -> None:
    problems = Problems("x.csv")
    for row in range(25):
        problems.add("repeated ids", f"row {row}: repeated.")
        if row < SHOWN:
            problems.add("unknown labels", f"row {row}: unknown.")
    with pytest.raises(Mistake) as caught:
        problems.raise_if_any()
    mistake = caught.value
    assert len(mistake.sentences) == 2 * SHOWN + 1 and "x.csv: 15 more repeated ids (25 in all)." in mistake.sentences
    assert len(mistake.full) == len(problems) == 35 and "row 24: repeated." in mistake.full
    again = pickle.loads(pickle.dumps(mistake))
    assert (again.sentences, again.full) == (mistake.sentences, mistake.full)


def test_few_problems_are_told_in_full() -> None:
    problems = Problems("x.csv")
    problems.raise_if_any()
    problems.add("repeated ids", "row 1: repeated.")
    with pytest.raises(Mistake) as caught:
        problems.raise_if_any()
    assert caught.value.sentences == caught.value.full == ("row 1: repeated.",)
