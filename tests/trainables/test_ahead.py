"""Work that is done ahead."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from trainables.ahead import ahead


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_results_come_in_order(depth: int) -> None:
    assert list(ahead(lambda x: x * x, range(5), depth)) == [0, 1, 4, 9, 16]


def test_it_is_that_far_ahead_and_no_further() -> None:
    done: list[int] = []
    third = threading.Event()

    def work(x: int) -> int:
        done.append(x)
        if x == 2:
            third.set()
        return x

    with closing(ahead(work, range(10), 2)) as results:
        assert next(results) == 0
        assert third.wait(10), "two more are done while the first is used"
        assert next(results) == 1
    assert len(done) <= 4, "a caller that stops early has nothing more computed"


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_comes_where_its_result_would_have(depth: int) -> None:
    results = ahead(lambda x: 1 // x, [1, 0, 1], depth)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
