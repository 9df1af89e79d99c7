"""Work done ahead in a thread, in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(work: Callable[[T], R], items: Iterable[T], depth: int) -> Generator[R, None, None]:
    """`map(work, items)`, of which up to `depth` results are computed before they are asked for; 0 computes them here.

    Errors come where the result would have. A caller that stops early waits for one that is being computed at most.
    """
    if depth == 0:
        yield from map(work, items)
        return
    left, waiting = iter(items), deque[Future[R]]()
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting.extend(pool.submit(work, item) for item in islice(left, depth))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(left, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
