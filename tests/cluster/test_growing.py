"""A mixed cluster that grows while a search runs, with caches of each node's own: `python -m pytest -m slow -s
tests/cluster/test_growing.py`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.folder import SearchFolder
from tests.cluster.hosts import Cluster, Host, network, with_token
from tests.cluster.test_nodes import busy
from tests.faults.searches import check_whole, epochs_in, fixed_list, wait_until, written
from trainables.trial_files import END, trial_folder

TRIALS, EPOCHS, VIEWS = 6, 1600, 2  # trials that take longer than a new node's first worker to start
KIND = "--labels=kind=trainer"
SPACE = {
    "trained_blocks": 0, "head": "attentive", "adapter": None, "batch_size": 16, "level": 1, "views": VIEWS,
    "head_lr": {"float": [1e-4, 1e-1], "log": True},
}  # fmt: skip
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with network(3) as made:
        yield made


def test_a_node_that_comes_takes_trials_and_fills_its_own_cache(hosts: list[Host], tmp_path: Path) -> None:
    """Trials run on the nodes that have the label, never on the head, and as many at once as there are such nodes, when
    one more comes too. Each decodes the images once for its own cache, and computes what frozen blocks give once."""
    cluster = Cluster(hosts[:1], with_token())
    cluster.start(hosts[1], KIND)
    settings = fixed_list(
        tmp_path, TRIALS, EPOCHS, images=300, space=SPACE, resources={"labels": {"kind": "trainer"}},
        cache=str(hosts[0].temporary / "cache"),
    )  # fmt: skip
    found = SearchFolder(tmp_path / "runs" / "fixed")
    driver = cluster.started("search", written(tmp_path, settings), "--address", cluster.address)
    wait_until(lambda: busy(hosts[1]) and epochs_in(found.path) > 5, 400, "no trial on the only node with the label")
    assert not busy(hosts[0])
    assert sum(not trial.state.terminal for trial in found.study().trials) == 1, "there is room for one"
    cluster.start(hosts[2], KIND)
    took = wait_until(lambda: busy(hosts[2]), 200, "no trial on the node that came")
    assert not busy(hosts[0])
    assert driver.wait(timeout=900) == 0, found.log.read_text()[-3000:]
    check_whole(found, TRIALS)
    ends = [json.loads((trial_folder(found.path, n) / END).read_text())[-1]["counts"] for n in range(TRIALS)]
    total = {what: sum(end[what] for end in ends) for what in ("decoded", "computed", "read")}
    prepared = found.prepared()
    print(f"a trial on the new node {took:.0f} s after its start; images on two nodes: {total}")
    assert total["decoded"] == 2 * (len(prepared.train) + len(prepared.validation))
    assert total["computed"] == 2 * VIEWS * len(prepared.train)
    assert not list((tmp_path / "runs").glob("cache/*")), "nothing lies in a cache of all"


def test_a_node_that_comes_with_other_packages_ends_the_search(hosts: list[Host], tmp_path: Path) -> None:
    """It is looked at like those that were there before the start: one sentence names both places, no trial has failed,
    and once the node is out a resume ends with all trials."""
    theirs = tmp_path / "theirs"
    (theirs / "spaces").mkdir(parents=True)
    (theirs / "spaces" / "__init__.py").touch()
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.path.insert(0, {str(theirs)!r})\nimport spaces\n")
    cluster = Cluster(hosts[:2], with_token())
    settings = written(tmp_path, fixed_list(tmp_path, 3, EPOCHS, images=300, space=SPACE, resources={"concurrent": 1}))
    found = SearchFolder(tmp_path / "runs" / "fixed")
    driver = cluster.started("search", settings, "--address", cluster.address, told=tmp_path / "told")
    wait_until(lambda: epochs_in(found.path) > 5, 400, "no trial has begun")
    cluster.start(hosts[2], PYTHONPATH=str(tmp_path))
    assert driver.wait(timeout=300) == 2, found.log.read_text()[-3000:]
    told = " ".join((tmp_path / "told").read_text().split())
    assert str(theirs / "spaces") in told and "joined while the search ran" in told and "Traceback" not in told, told
    assert not [trial for trial in found.study().trials if trial.cause]
    hosts[2].kill()
    done = cluster.medtune("resume", found.path, "--address", cluster.address)
    assert done.returncode == 0, done.stdout + done.stderr
    check_whole(found, 3)
