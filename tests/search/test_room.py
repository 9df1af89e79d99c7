"""Where trials may run on a mixed cluster, and how many of them on one that grows."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from search import cluster
from search.cluster import Node, Room, check_address, check_labels, chosen, sharing, trials_at_once, wanted_of
from search.plan import concurrent_trials
from search.scheduler import RecordSearcher
from spaces.config import ResourcesConfig
from spaces.mistakes import Mistake
from tests.search.test_scheduler import driver

wanted = ResourcesConfig.model_validate
SMALL = Node("1", "small", 8, 1, {"kind": "small", "ray.io/accelerator-type": "T4"})
LARGE = Node("2", "large", 8, 4, {"kind": "large", "ray.io/accelerator-type": "A100"})
BARE = Node("3", "bare", 8, 0)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("large", [LARGE]),
        ("!large", [SMALL, BARE]),
        ("in(small, large)", [SMALL, LARGE]),
        ("in(small)", [SMALL]),
        ("!in(small,large)", [BARE]),
        ("other", []),
    ],
)
def test_nodes_by_label(selector: str, expected: list[Node]) -> None:
    assert wanted_of(wanted({"labels": {"kind": selector}}), [SMALL, LARGE, BARE]) == expected
    assert [node for node in (SMALL, LARGE, BARE) if chosen(node.labels.get("kind"), selector)] == expected


def test_only_chosen_nodes_have_room() -> None:
    settings = {"accelerators": 1, "labels": {"ray.io/accelerator-type": "A100"}}
    assert trials_at_once(wanted(settings), [SMALL, LARGE, BARE]) == (4, [])
    with pytest.raises(Mistake, match="where kind is huge on one node, but no node has them"):
        trials_at_once(wanted({"labels": {"kind": "huge"}}), [SMALL, LARGE, BARE])
    _, [notice] = trials_at_once(wanted({"concurrent": 9, "cpus": 4, "labels": {"kind": "small"}}), [SMALL, LARGE])
    assert "of 4 CPUs and 0 accelerators where kind is small each, and 2 fit" in notice


def test_labels_need_a_cluster() -> None:
    with pytest.raises(Mistake, match="resources.labels: they choose among a cluster's nodes"):
        check_labels(wanted({"labels": {"kind": "large"}}), None)
    check_labels(wanted({}), None)


def test_room_follows_the_nodes_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [LARGE]
    monkeypatch.setattr(cluster, "nodes", lambda ray: list(there))
    monkeypatch.setattr(cluster, "LOOK", 0.0)
    room = Room(SimpleNamespace(), wanted({"accelerators": 1}), 4)
    assert room() == 4
    there.append(SMALL)
    assert room() == 5
    there.clear()
    assert room() == 1, "one waits for a node"
    fixed = Room(SimpleNamespace(), wanted({"accelerators": 1, "concurrent": 3}), 3)
    assert fixed() == 3


def test_the_searcher_holds_back_while_there_is_no_room(tmp_path: Path) -> None:
    at_once = 1
    searcher = RecordSearcher(driver(tmp_path), lambda: at_once)
    assert searcher.suggest("a") == {"trials": [{"number": 0}]}
    assert searcher.suggest("b") is None and len(searcher.driver.study.trials) == 1
    at_once = 2
    assert searcher.suggest("b") == {"trials": [{"number": 1}]} and searcher.suggest("c") is None
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("c") == {"trials": [{"number": 2}]}


@pytest.mark.parametrize(
    ("fraction", "workers"), [(1, 1), (0.5, 2), (0.34, 2), (0.3, 3), (0.2, 5), (0.1, 10), (0.05, 20)]
)
def test_how_many_share_an_accelerator(fraction: float, workers: int) -> None:
    node = Node("a", "a", 64, 2.0)
    assert sharing(fraction) == workers
    assert trials_at_once(wanted({"accelerators": fraction}), [node]) == (2 * workers, [])
    resources = ResourcesConfig(accelerators=fraction, concurrent=2 * workers)
    assert concurrent_trials(resources, 64, 2) == 2 * workers


def test_workers_of_a_trial_do_not_share_an_accelerator() -> None:
    with pytest.raises(ValueError, match="the 4 workers of a trial need an accelerator each, but accelerators is 0.25"):
        ResourcesConfig(workers=4, accelerators=0.25)


def test_a_client_address_is_refused() -> None:
    with pytest.raises(Mistake, match="ray://head:10001: Ray Client can't drive a search"):
        check_address("ray://head:10001")
