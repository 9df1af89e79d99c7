"""Hosts of a network on this machine: each has network interfaces, an address and a temporary folder of its own, and
shares everything else on disk with the others, as the nodes of a cluster share their storage. Needs root."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from search.launch import RAY_SETTINGS

RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6379
NETWORK = "10.213.77"
START = 240  # seconds that Ray may take to start on a busy machine


class Host:
    """One of them, made by `network`."""

    def __init__(self, number: int, home: Path, switch: int) -> None:
        """
        Args:
            home: folder of the hosts' files.
            switch: process that holds the network namespace of the switch.
        """
        self.address = f"{NETWORK}.{number + 10}"
        self.temporary = home / "ray"  # the same path on all hosts, another folder behind it
        own = home / f"host{number}"
        own.mkdir()
        self.temporary.mkdir(exist_ok=True)
        bind = f"mount --bind {own} {self.temporary} && exec sleep infinity"
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", bind])
        _wait(lambda: _namespace(self.holder.pid) != _namespace(os.getpid()))
        wire = f"host{number}"
        _shell(
            "ip", "link", "add", wire, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", self.holder.pid
        )
        _inside(switch, "ip", "link", "set", wire, "master", "switch", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "link", "set", "lo", "up")
        _wait(lambda: self.run("mountpoint", "-q", self.temporary).returncode == 0)

    def command(self, *words: object) -> list[str]:
        """A command as it is started on this host."""
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--", *map(str, words)]

    def run(self, *words: object, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, **more)  # type: ignore[call-overload, no-any-return]

    def processes(self) -> list[psutil.Process]:
        """All that run on this host, but for the one that holds it."""
        here = _namespace(self.holder.pid)
        return [p for p in psutil.process_iter() if p.pid != self.holder.pid and _namespace(p.pid) == here]

    def cut_off(self) -> None:
        """As when the power fails: no packet gets out any more, not even that connections end; nothing lives on."""
        self.run("ip", "link", "set", "eth0", "down")
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all that run on this host, until nothing is left."""
        while left := [p for p in self.processes() if p.status() != psutil.STATUS_ZOMBIE]:
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.05)

    def reconnect(self) -> None:
        self.run("ip", "link", "set", "eth0", "up")

    def end(self) -> None:
        self.kill()
        self.holder.kill()
        self.holder.wait()


@contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """Hosts that reach each other, and nothing else."""
    home = Path(tempfile.mkdtemp(prefix="medtune.", dir="/tmp"))  # short: Ray's sockets lie in it
    switch = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    hosts: list[Host] = []
    try:
        _wait(lambda: _namespace(switch.pid) != _namespace(os.getpid()))
        _inside(switch.pid, "ip", "link", "add", "switch", "type", "bridge")
        _inside(switch.pid, "ip", "link", "set", "switch", "up")
        for number in range(count):
            hosts.append(Host(number, home, switch.pid))
        yield hosts
    finally:
        for host in hosts:
            host.end()
        switch.kill()
        switch.wait()
        shutil.rmtree(home, ignore_errors=True)


def with_token(token: str | None = None) -> dict[str, str]:
    """The environment of a node, or of a driver, of a cluster with token authentication."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, **RAY_SETTINGS, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or secrets.token_hex(32)}


class Cluster:
    """A Ray node on each of some hosts; the first is the head."""

    def __init__(
        self, hosts: list[Host], environment: Mapping[str, str], cpus: int = 1, dashboard: bool = False
    ) -> None:
        self.hosts, self.environment, self.cpus, self.dashboard = hosts, dict(environment), cpus, dashboard
        self.address = f"{hosts[0].address}:{PORT}"
        for host in hosts:
            self.start(host)

    def start(self, host: Host, *options: str, **more: str) -> None:
        """`ray start` on a host. `more`: of its environment."""
        head = host is self.hosts[0]
        shown = str(self.dashboard).lower()
        place = ["--head", f"--port={PORT}", f"--include-dashboard={shown}", f"--temp-dir={host.temporary}"]
        command = [
            RAY, "start", *(place if head else [f"--address={self.address}"]), f"--node-ip-address={host.address}",
            f"--num-cpus={self.cpus}", "--object-store-memory=80000000", *options,
        ]  # fmt: skip
        done = host.run(*command, env={**self.environment, **more}, timeout=START)
        assert done.returncode == 0, done.stdout + done.stderr

    def medtune(self, *words: object, host: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        """A command on a host, to its end."""
        return self.hosts[host].run(*_medtune(*words), env={**self.environment, **more}, timeout=900)

    def started(self, *words: object, host: int = 0, told: Path | None = None) -> subprocess.Popen[bytes]:
        """A command on a host, under way. `told`: a new file for what it says to its standard error."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": told.open("wb") if told else subprocess.DEVNULL}
        return subprocess.Popen(self.hosts[host].command(*_medtune(*words)), env=self.environment, **quiet)  # type: ignore[call-overload, no-any-return]

    def free(self) -> dict[str, float]:
        """What nobody holds: CPUs, and groups of them that are reserved for somebody."""
        code = (
            "import json, ray; ray.init(address='auto', log_to_driver=False);"
            "print(json.dumps({k: v for k, v in ray.available_resources().items() if k.startswith('CPU')}))"
        )
        done = self.hosts[0].run(sys.executable, "-c", code, env=self.environment, timeout=120)
        assert done.returncode == 0, done.stderr
        found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        return found


def _medtune(*words: object) -> list[str]:
    return [sys.executable, "-m", "search.cli", *map(str, words)]


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""


def _inside(pid: int, *words: object) -> None:
    _shell("nsenter", f"--target={pid}", "--net", "--", *words)


def _shell(*words: object) -> None:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)


def _wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
