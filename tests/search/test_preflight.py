"""What is looked at before the first trial, on a cluster of three nodes on this machine, two of them with faults.

The nodes are real `ray start` processes. Each faulty one has mounts of its own, so that it sees other folders at the same
paths, as a machine does on which something wasn't mounted.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search.cluster import Node, connect, nodes, sources_digest, trials_at_once
from search.launch import RAY_SETTINGS
from search.plan import Plan, plan
from search.preflight import GIB, Question, look, look_at_packages, pixel_files, preflight, question, told
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
        return plan(
            load(settings, [f"{key}={value}" for key, value in changes.items()]), self.home, cluster=True
        )

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
    """The address of a cluster with token authentication, which this process is connected to. Nodes: `sound`, which is
    the head; `strange`, with a storage and images of its own and an accelerator that isn't there; `small`, which may not
    write to the storage and has a full disk."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine doesn't let a process have mounts of its own")
    bad.plan()
    home = bad.home
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(secrets.token_hex(32))
    environment = {**os.environ, **RAY_SETTINGS, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    folder = tempfile.mkdtemp(prefix="medtune.", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
    address = f"127.0.0.1:{free_port()}"
    common = ["--num-cpus=2", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1", "--block"]
    head = [RAY, "start", "--head", f"--port={address.split(':')[1]}", "--include-dashboard=false", "--node-name=sound"]
    worker = f"exec {RAY} start --address={address} {' '.join(common)}"
    strange = f"""
        mount -t tmpfs tmpfs {home / "runs"} && mkdir {home / "runs" / "digits"}
        mount -t tmpfs tmpfs {home / "images"} && {worker} --node-name=strange --num-gpus=1"""
    small = f"""
        mount --bind {home / "runs"} {home / "runs"} && mount -o remount,bind,ro {home / "runs"}
        mount -t tmpfs -o size=64k tmpfs {home / "cache"} && {worker} --node-name=small"""
    started = []
    try:
        for command in (
            [*head, f"--temp-dir={folder}", *common],
            [*NAMESPACE, "sh", "-ec", strange],
            [*NAMESPACE, "sh", "-ec", small],
        ):
            with (Path(folder) / "output.txt").open("ab") as output:
                started.append(
                    subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
                )
            wait_for(address)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", *RAY_SETTINGS):
                patch.setenv(name, environment[name])
            import ray

            connect(ray, address)
            try:
                deadline = time.monotonic() + 120
                while len(nodes(ray)) < 3:
                    assert time.monotonic() < deadline, (Path(folder) / "output.txt").read_text()
                    time.sleep(0.2)
                yield address
            finally:
                ray.shutdown()
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(address: str) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "Ray's head doesn't start"
            time.sleep(0.2)


def test_all_is_told_at_once(cluster: str, bad: Places) -> None:
    import ray

    planned = bad.plan(resources="{accelerators: 0.5, concurrent: 4}", activations="1.0")
    with pytest.raises(Mistake) as caught:
        preflight(ray, planned, bad.search)
    for sentence in caught.value.sentences:
        print(sentence)
    assert not list(bad.search.iterdir()), "marks are taken away"


def test_a_sound_cluster_passes(cluster: str, good: Places) -> None:
    import ray

    started = time.monotonic()
    assert preflight(ray, good.plan(), good.search) == (6, [])
    print(time.monotonic() - started)
    assert not list(good.search.iterdir())
