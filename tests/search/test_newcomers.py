"""Nodes that join a cluster while a search runs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from search.cluster import Node
from search.newcomers import Newcomers
from search.scheduler import RecordSearcher
from spaces.mistakes import Mistake
from tests.search.test_scheduler import driver

OLD, NEW = Node("1", "old", 8, 1), Node("2", "new", 8, 1)


def looked_at(newcomers: Newcomers) -> None:
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) == newcomers._look:
            thread.join(10)


def test_each_is_looked_at_once_and_ends_the_search_where_trials_would_fail(tmp_path: Path) -> None:
    looks: list[str] = []
    answers = threading.Event()

    def look(node: Node) -> list[str]:
        assert answers.wait(10)
        looks.append(node.name)
        return [f"dataset: {node.name} has no folder /images."]

    newcomers = Newcomers([OLD], look, "a")
    newcomers([OLD])
    newcomers([OLD, NEW])  # the search isn't held up by the look
    assert not looks
    answers.set()
    looked_at(newcomers)
    with pytest.raises(Mistake, match=r"dataset: new has no folder /images(?s:.*)medtune resume a"):
        newcomers([OLD, NEW])
    newcomers([OLD])  # it was taken out again
    assert looks == ["new"]

    def at_once() -> int:
        newcomers([OLD, NEW])
        return 1

    drives = driver(tmp_path)
    with pytest.raises(Mistake):
        RecordSearcher(drives, at_once).suggest("x")
    assert drives.failure is not None and not drives.study.trials, "the search ends by it, with nothing begun"


def test_a_sound_one_and_one_that_has_gone_are_let_be() -> None:
    def look(node: Node) -> list[str]:
        if node is NEW:
            raise ConnectionError("gone")
        return []

    newcomers = Newcomers([], look, "a")
    newcomers([OLD, NEW])
    looked_at(newcomers)
    newcomers([OLD, NEW])
    assert newcomers.wrong == {"1": []}
