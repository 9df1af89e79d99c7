"""A real Ray head on this machine, with token authentication."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from search.launch import RAY_SETTINGS

RAY = Path(sys.executable).with_name("ray")
START = 240  # seconds that Ray may take on a busy machine


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]
    """Of a process that may connect to it."""

    @property
    def with_a_wrong_token(self) -> dict[str, str]:
        return {**self.environment, "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def ray_head(more: Mapping[str, str] = MappingProxyType({})) -> Iterator[Head]:
    """A node of two CPUs and no accelerator that is a cluster by itself.

    Args:
        more: the node's own environment.
    """
    folder = Path(tempfile.mkdtemp(prefix="medtune.", dir="/tmp"))  # short: Ray's sockets lie in it
    environment = {
        **os.environ,
        **RAY_SETTINGS,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    command = [
        RAY, "start", "--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}", "--num-cpus=2",
        "--num-gpus=0", "--object-store-memory=80000000", "--node-ip-address=127.0.0.1",
        "--dashboard-agent-listen-port=0", "--block",
    ]  # fmt: skip
    output = folder / "output.txt"
    with output.open("wb") as file:
        node = subprocess.Popen(command, env={**environment, **more}, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + START
        while "Ray runtime started" not in output.read_text():
            assert node.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        [address] = re.findall(r"--address='([\d.]+:\d+)'", output.read_text())
        yield Head(address, environment)
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(node.pid).children(recursive=True):
                child.kill()
        node.kill()
        node.wait()
        shutil.rmtree(folder, ignore_errors=True)
