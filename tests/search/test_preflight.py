"""What is looked at before the first trial, on a cluster of three nodes on this machine, two of them with faults.

The nodes are real `ray start` processes. Each faulty one has mounts of its own, so that it sees other folders at the
same paths, as a machine does on which something wasn't mounted.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.cluster import Node, connect, nodes, trials_at_once
from search.launch import RAY_SETTINGS
from search.plan import Plan, plan
from search.preflight import DRIVERS, GIB, Question, look, look_at_packages, pixel_files, preflight, question, told
from search.settings import load
from spaces.config import ResourcesConfig
from spaces.mistakes import Mistake
from tests.search.conftest import SETTINGS, write_digits
from trainables.files import write_text

RAY = str(Path(sys.executable).with_name("ray"))
NAMESPACE = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]


@dataclass
class Places:
    """Folders of a search; a cluster's faulty nodes see others in their place."""

    home: Path

    def plan(self, **changes: Any) -> Plan:
        settings = self.home / "search.yaml"
        if not settings.exists():
            write_digits(self.home / "images", 60)
            text = SETTINGS.replace("STORAGE", str(self.home / "runs"))
            settings.write_text(text + f"cache: {self.home / 'cache'}\n")
            (self.home / "runs" / "digits").mkdir(parents=True)
        return plan(load(settings, [f"{key}={value}" for key, value in changes.items()]), self.home, cluster=True)

    @property
    def search(self) -> Path:
        return self.home / "runs" / "digits"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Seen alike by all nodes."""
    return Places(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Seen otherwise by two nodes."""
    return Places(tmp_path_factory.mktemp("bad"))


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(bad: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster with token authentication. Nodes: `sound`, which is the head; `strange`, with a storage
    and images of its own and an accelerator that isn't there; `small`, which may not write to the storage and has a
    full disk."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine doesn't let a process have mounts of its own")
    bad.plan()
    home = bad.home
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(secrets.token_hex(32))
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    environment = {**inherited, **RAY_SETTINGS, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    folder = tempfile.mkdtemp(prefix="medtune.", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
    address = f"127.0.0.1:{free_port()}"
    # Of the agent's usual port there is one on a machine; 0 takes any.
    common = ["--num-cpus=2", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1"]
    common += ["--dashboard-agent-listen-port=0", "--block"]
    head = [RAY, "start", "--head", f"--port={address.split(':')[1]}", "--include-dashboard=false", "--node-name=sound"]
    worker = f"exec {RAY} start --address={address}"
    strange = f"""
        mount -t tmpfs tmpfs {home / "runs"} && mkdir {home / "runs" / "digits"}
        mount -t tmpfs tmpfs {home / "images"} && {worker} --node-name=strange --num-gpus=1 {" ".join(common)}"""
    small = f"""
        mount --bind {home / "runs"} {home / "runs"} && mount -o remount,bind,ro {home / "runs"}
        mount -t tmpfs -o size=64k tmpfs {home / "cache"} && {worker} --node-name=small {" ".join(common)}"""
    started = []
    try:
        for command in (
            [*head, f"--temp-dir={folder}", *common],
            [*NAMESPACE, "sh", "-ec", strange],
            [*NAMESPACE, "sh", "-ec", small],
        ):
            output = Path(folder) / f"output-{len(started)}.txt"
            with output.open("wb") as file:
                started.append(
                    subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
                )
            wait_for(output, started[-1])  # of two that start at once on one machine, both may take the same socket
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", *RAY_SETTINGS):
                patch.setenv(name, environment[name])
            patch.delenv("RAY_AUTH_TOKEN", raising=False)  # it would win over the file
            yield address
    finally:
        for process in started:  # killed, since a node that is ended takes ten seconds to say goodbye
            if process.poll() is None:
                for child in (*psutil.Process(process.pid).children(recursive=True), process):
                    child.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(output: Path, node: subprocess.Popen[bytes]) -> None:
    """Until a node is in the cluster."""
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in output.read_text():
        assert node.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)


@dataclass
class Told:
    """By `preflight`."""

    nodes: int
    sentences: Sequence[str]
    at_once: int | None
    """Trials; None where it refused."""
    seconds: float


def ask(address: str, places: Places, changes: dict[str, str]) -> Told:
    import ray

    planned = places.plan(**changes)
    connect(ray, address)
    started = time.monotonic()
    try:
        at_once, notices = preflight(ray, planned, places.search)
    except Mistake as mistake:
        return Told(len(nodes(ray)), mistake.sentences, None, time.monotonic() - started)
    return Told(len(nodes(ray)), notices, at_once, time.monotonic() - started)


def told_by(address: str, places: Places, **changes: str) -> Told:
    """`ask` in a process of its own: in one that has used Ray before, another token isn't taken."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(ask, address, places, changes).result(300)


@pytest.mark.slow  # a cluster takes half a minute to start
def test_all_is_told_at_once(cluster: str, bad: Places) -> None:
    given = told_by(cluster, bad, resources="{accelerators: 0.5, concurrent: 4}", activations="1.0")
    assert given.nodes == 3 and given.at_once is None
    sentences = given.sentences
    expected = [
        ("storage: small", "can't write to", "Read-only file system"),
        ("cache: small", "GiB free", "1.0 GiB are needed"),
        ("storage: strange", "of its own", "mount the shared storage"),
        ("dataset: strange", "can't read 0/0000.png", "mount the same data"),
        ("resources: strange", "started with 1 accelerators, but torch sees 0", "--num-gpus=0"),
    ]
    assert len(sentences) == len(expected), sentences
    for sentence, parts in zip(sentences, expected, strict=True):
        assert all(part in sentence for part in parts), sentence
    assert not list(bad.search.iterdir()), "marks are taken away"


@pytest.mark.slow
def test_a_sound_cluster_passes(cluster: str, good: Places) -> None:
    given = told_by(cluster, good)
    assert (given.at_once, given.sentences, given.nodes) == (6, [], 3)
    assert given.seconds < 30
    assert not list(good.search.iterdir())


@pytest.mark.slow  # Ray tries for 20 s
def test_a_wrong_token_is_told(cluster: str) -> None:
    code = "import sys, ray; from search.cluster import connect; connect(ray, sys.argv[1])"
    environment = {**os.environ, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    done = subprocess.run(
        [sys.executable, "-c", code, cluster], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "Mistake" in done.stderr and "cluster's token (RAY_AUTH_MODE" in done.stderr, done.stderr


def test_what_a_node_is_asked(good: Places) -> None:
    planned = good.plan()
    asked = question(planned, good.search, good.search / "marks")
    assert len(asked["samples"]) == 3 and not asked["accelerators"] and asked["activations"] == 0
    rows = len(planned.prepared.manifest)
    assert sum(asked["pixels"].values()) % rows == 0 or len(asked["pixels"]) > 1
    for path, size in pixel_files(planned).items():
        assert (planned.cache / path / "array").stat().st_size == size


@pytest.fixture
def asked(good: Places, monkeypatch: pytest.MonkeyPatch) -> Question:
    """Of this process, which sees all."""
    monkeypatch.setattr("search.preflight.LAG", 0.0)
    marks = good.search / "marks"
    write_text(marks / "driver", "driver")
    return {**question(good.plan(), good.search, marks), "name": "here"}


def test_this_process_sees_nothing_wrong(asked: Question) -> None:
    seen = look(asked)
    assert told(Node("id", "here", 2, 0), seen, look_at_packages(), asked["accelerators"]) == []
    assert (Path(asked["marks"]) / "here").read_text() == "here"
    shutil.rmtree(asked["marks"])


def test_each_fault_of_a_node(asked: Question, tmp_path: Path) -> None:
    faults: list[tuple[dict[str, Any], str]] = [
        ({"storage": str(tmp_path / "none")}, f"storage: here has no folder {tmp_path / 'none'}"),
        ({"marks": str(tmp_path)}, "of its own, without what this process writes"),
        ({"root": str(tmp_path / "none")}, f"dataset: here has no folder {tmp_path / 'none'}"),
        ({"samples": [("0/0000.png", "other")]}, "dataset: here has another image than this process at 0/0000.png"),
        ({"samples": [("0/none.png", "other")]}, "dataset: here can't read 0/none.png"),
        ({"activations": 10**9 * GIB}, "cache: here has"),
        ({"pixels": {"pixels/none": 10**9 * GIB}}, "GiB are needed"),
        ({"checkpoints": "file:///proc/none"}, "checkpoints: here can't keep anything at file:///proc/none"),
    ]
    mine = look_at_packages()
    for change, expected in faults:
        [sentence] = told(Node("id", "here", 2, 0), look({**asked, **change}), mine, False)  # type: ignore[typeddict-item]
        assert expected in sentence
    shutil.rmtree(asked["marks"])


def test_other_packages_are_named() -> None:
    mine = look_at_packages()
    other = {"torch": "1.0", "timm": "not installed", "pillow": "0.1"}
    theirs = {**mine, "python": "3.9", "versions": {**mine["versions"], **other}}
    seen: Any = {**theirs, "storage": "", "dataset": "", "cache": "", "checkpoints": "", "accelerators": 0, "cuda": ""}
    [versions] = told(Node("id", "there", 2, 0), seen, mine, False)
    for said in ("Python 3.9 instead of", "torch 1.0 instead of", "pillow 0.1 instead of", "requirements.lock"):
        assert said in versions


def test_a_driver_that_is_too_old_is_named(asked: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    # What torch says there: the driver's library counts the accelerators, CUDA refuses them.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    node = Node("id", "here", 2, 2)
    seen = look({**asked, "accelerators": True})
    [sentence] = told(node, seen, look_at_packages(), True)
    assert "started with 2 accelerators, but torch sees 0 there" in sentence and "--num-gpus=0" in sentence
    assert "torch there is built for CUDA 13.2, which needs NVIDIA's driver 580 or newer" in sentence
    for build in (None, "99.0"):
        monkeypatch.setattr(torch.version, "cuda", build)
        [sentence] = told(node, look({**asked, "accelerators": True}), look_at_packages(), True)
        assert "mend its driver or torch's build" in sentence
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    [sentence] = told(Node("id", "here", 2, 3), look({**asked, "accelerators": True}), look_at_packages(), True)
    assert "torch sees 2 there; mend its driver or torch's build" in sentence, "the driver is new enough for two"
    assert told(node, look({**asked, "accelerators": True}), look_at_packages(), True) == []
    shutil.rmtree(asked["marks"])


def test_the_locked_torch_has_a_least_driver() -> None:
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text()
    [version] = re.findall(r"^nvidia-cuda-runtime==(\d+)\.", lock, re.M)
    assert version in DRIVERS
    assert f"driver {DRIVERS[version]} or newer" in (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()


def test_trials_lie_on_one_node_each() -> None:
    two, four = Node("1", "one", 2, 0), Node("2", "two", 4, 2)
    wanted = ResourcesConfig.model_validate
    assert trials_at_once(wanted({"cpus": 3}), [two, four]) == (1, [])
    assert trials_at_once(wanted({"cpus": 2}), [two, four]) == (3, [])
    assert trials_at_once(wanted({"accelerators": 0.5}), [two, four]) == (4, [])
    assert trials_at_once(wanted({"accelerators": 0.4}), [two, four]) == (4, [])
    assert trials_at_once(wanted({"cpus": 2, "concurrent": 2}), [two, four]) == (2, [])
    at_once, [notice] = trials_at_once(wanted({"accelerators": 1, "concurrent": 8}), [])
    assert at_once == 8 and "0 fit on the 0 nodes" in notice
    with pytest.raises(Mistake, match="no node has them") as caught:
        trials_at_once(wanted({"cpus": 5}), [two, four])
    assert "one: 2 CPUs" in str(caught.value) and "resources.concurrent" in str(caught.value)


def test_a_machine_too_busy_for_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def busy(**_: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", busy)
    with pytest.raises(Mistake, match="Ray didn't come up .* medtune resume"):
        connect(ray, None)
