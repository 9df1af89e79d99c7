"""A cluster of three hosts, each with a network address of its own, with token authentication, and what goes wrong
with hosts: `python -m pytest -m slow -s tests/cluster` (minutes)."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from search.folder import SearchFolder
from search.record import Trial
from tests.cluster.hosts import RAY, Cluster, Host, network, with_token
from tests.faults.searches import check_complete, check_whole, epochs_in, fixed_list, ran, values, wait_until, written
from tests.search.conftest import status, succeed
from trainables.trial_files import CHECKPOINTS, trial_folder
from trainables.trials import PAUSE

TRIALS, EPOCHS, IMAGES = 6, 60, 200
NOTICED = 15  # seconds in which a person learns that a search can't start
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with network(3) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the trials come to where nothing happens, on one machine."""
    home = tmp_path_factory.mktemp("undisturbed")
    done = ran("search", settings_in(home))
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(values(SearchFolder(home / "runs" / "fixed")))


def settings_in(home: Path, **more: object) -> Path:
    return written(home, fixed_list(home, TRIALS, EPOCHS, images=IMAGES, **more))


def test_a_search_over_three_nodes_with_a_token_and_one_of_them_lost(
    hosts: list[Host], undisturbed: dict[str, object], tmp_path: Path
) -> None:
    """One node loses its power in the middle of its trial. Its trial moves, loses at most what came after a
    checkpoint's interval, and all end with the values of the undisturbed search; nothing stays reserved."""
    cluster = Cluster(hosts, with_token())
    wait_until(lambda: cluster.free() == {"CPU": 3}, 60, "three nodes")
    settings = settings_in(tmp_path)
    found = SearchFolder(tmp_path / "runs" / "fixed")
    driver = cluster.started("search", settings, "--address", cluster.address)
    wait_until(lambda: busy(hosts[2]) and epochs_in(found.path) > 20, 400, "no trial on the third host")
    assert all(busy(host) for host in hosts), "three trials at once, one on each host"
    hosts[2].cut_off()
    lost = time.monotonic()
    running = [trial for trial in found.study().trials if not trial.state.terminal and trial.epochs]
    behind = [unsaved(found, trial) for trial in running]
    assert driver.wait(timeout=900) == 0, found.log.read_text()[-3000:]
    print(f"ended {time.monotonic() - lost:.0f} s after the loss; seconds since a checkpoint: {behind}")
    assert max(behind) < 3 * PAUSE, "of training, at the moment of the loss"
    check_whole(found, TRIALS)
    check_complete(found, TRIALS)
    assert dict(values(found)) == undisturbed
    wait_until(lambda: cluster.free() == {"CPU": 2}, 60, "what is left isn't free, or a group is reserved")


def test_the_head_lost_with_the_driver_on_it(hosts: list[Host], undisturbed: dict[str, object], tmp_path: Path) -> None:
    """A resume on a new cluster with the same storage ends as the undisturbed search; no trial that had ended is
    touched."""
    cluster = Cluster(hosts, with_token())
    settings = settings_in(tmp_path)
    found = SearchFolder(tmp_path / "runs" / "fixed")
    driver = cluster.started("search", settings, "--address", cluster.address)
    wait_until(lambda: any(t.state.terminal for t in trials_of(found)), 600, "no trial ended")
    hosts[0].cut_off()
    driver.wait(timeout=30)
    ended = {t.number: repr(t) for t in found.study().trials if t.state.terminal}
    assert 0 < len(ended) < TRIALS, "lost in the middle"
    for host in hosts:
        host.kill()
    hosts[0].reconnect()
    anew = Cluster(hosts[1:], with_token())  # another head, on another host
    done = anew.medtune("resume", found.path, "--address", anew.address)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{len(ended)} trials had ended")
    check_whole(found, TRIALS)
    check_complete(found, TRIALS)
    assert {number: repr(found.study().trials[number]) for number in ended} == ended
    assert dict(values(found)) == undisturbed
    wait_until(lambda: anew.free() == {"CPU": 2}, 60, "what is left isn't free, or a group is reserved")


def test_what_is_known_before_the_start(hosts: list[Host], tmp_path: Path) -> None:
    """A cluster that is away, a wrong token, more than any node has, and a node that has another package of our name:
    a sentence each, in time, and nothing is left behind."""
    theirs = tmp_path / "theirs"
    (theirs / "spaces").mkdir(parents=True)
    (theirs / "spaces" / "__init__.py").touch()
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.path.insert(0, {str(theirs)!r})\nimport spaces\n")
    cluster = Cluster(hosts[:2], with_token())
    settings = settings_in(tmp_path)
    seconds: dict[str, float] = {}

    def refused(what: str, *words: str, host: int = 0, **more: str) -> str:
        idle = time.monotonic()
        cluster.medtune("search", settings, "--address", "nowhere", host=host)  # what imports and reading cost alone
        started = time.monotonic()
        done = cluster.medtune("search", settings, *words, host=host, **more)
        seconds[what] = (time.monotonic() - started) - (started - idle)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "runs" / "fixed").exists(), "nothing is left behind"
        return done.stderr

    said = refused("away", "--address", f"{hosts[2].address}:6379")
    assert "nothing answers there" in said
    said = refused("token", "--address", cluster.address, RAY_AUTH_TOKEN="0" * 64)
    assert "token" in said
    said = refused("too much", "--address", cluster.address, "--set", "resources={accelerators: 1, cpus: 1}")
    assert "no node has them" in said
    cluster.hosts = hosts
    cluster.start(hosts[2], PYTHONPATH=str(tmp_path))
    said = refused("shadowed", "--address", cluster.address)
    assert str(theirs / "spaces") in said and hosts[2].address in said
    print(json.dumps({what: round(took, 1) for what, took in seconds.items()}))
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # where much else runs, in proportion
    assert max(took for what, took in seconds.items() if what != "shadowed") < NOTICED * busy


def test_no_port_is_open_to_who_has_no_token(hosts: list[Host], tmp_path: Path) -> None:
    """From another host, without the token, the cluster says nothing, nor does it take jobs; with it, it does both."""
    cluster = Cluster(hosts[:2], with_token(), dashboard=True)
    asked = f"ray._raylet.GcsClient(address='{cluster.address}').get_all_node_info(timeout=30)"
    ask = ("timeout", 120, sys.executable, "-c", f"import ray; print(len({asked}), 'nodes')")
    job = (RAY, "job", "list", "--address", "http://127.0.0.1:8265")
    done = hosts[2].run(*ask, env=cluster.environment)
    assert done.stdout.strip().endswith("2 nodes"), done.stdout + done.stderr
    done = hosts[0].run(*job, env=cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for token in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "1" * 64}):
        done = hosts[2].run(*ask, env={**bare, **token})
        assert done.returncode != 0 and "nodes" not in done.stdout, done.stdout + done.stderr
        assert "oken" in done.stderr, done.stderr
        done = hosts[0].run(*job, env={**bare, **token})
        assert done.returncode != 0 and "oken" in done.stdout + done.stderr, done.stdout + done.stderr
    elsewhere = (*job[:-1], f"http://{hosts[0].address}:8265")
    done = hosts[2].run(*elsewhere, env=cluster.environment)
    assert done.returncode != 0 and "onnect" in done.stderr, "the dashboard is seen from its own host alone"


def busy(host: Host) -> bool:
    """Whether a trial is trained on a host: an actor of Ray Tune works there, under the title that Ray gives it."""
    return any(title.startswith("ray::ImplicitFunc.train") for title in titles(host))


def titles(host: Host) -> Iterator[str]:
    for process in host.processes():
        with suppress(psutil.Error):  # it has just ended
            yield " ".join(process.cmdline()[:1])


def trials_of(found: SearchFolder) -> list[Trial]:
    return list(found.study().trials) if (found.path / "study.journal").exists() else []


def unsaved(found: SearchFolder, trial: Trial) -> float:
    """Seconds of an unfinished trial's training that no checkpoint holds, by what it reported last."""
    kept = (trial_folder(found.path, trial.number) / CHECKPOINTS).glob("epoch-*")
    return max(0.0, trial.epochs[max(trial.epochs)].time - max(path.stat().st_mtime for path in kept))


def test_submitted_as_a_job(hosts: list[Host], tmp_path: Path) -> None:
    """`ray job submit` of a search, with a token, to its end; `status` and `export` from a machine that only sees the
    storage."""
    cluster = Cluster(hosts[:2], with_token(), dashboard=True)
    settings = settings_in(tmp_path, budget={"trials": 3, "epochs": 5})
    done = hosts[0].run(
        *(RAY, "job", "submit", "--address", "http://127.0.0.1:8265", "--"),
        *(sys.executable, "-m", "search.cli", "search", settings, "--address", "auto"),
        env=cluster.environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = SearchFolder(tmp_path / "runs" / "fixed")
    check_whole(found, 3)
    assert status(found.path)["states"] == {"complete": 3}
    succeed("export", found.path, "-o", tmp_path / "best.yaml")
    assert (tmp_path / "best.yaml").exists()
