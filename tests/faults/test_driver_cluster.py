"""A cluster that is away, isn't one, doesn't take the token, or lacks what a trial asks for. Several nodes:
tests/cluster, tests/search/test_preflight.py."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from search.ui import free_port
from tests.faults.ray_head import Head, ray_head
from tests.faults.searches import fixed_list, written

SOON = 15  # seconds
RAYS_OWN = re.compile(r"\[[\d -]+[\d:, ]+W ")
"""Warnings of a thread of Ray's that on a slow machine come when it has been given up."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of what takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def pages() -> Iterator[str]:
    """The address of a web server, as of a dashboard whose port was taken for the cluster's."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def refused(folder: Path, address: str | None, environment: Mapping[str, str] = os.environ, **more: object) -> str:
    """What a search is refused with, within `SOON`, in proportion on a busy machine; nothing of it may stay."""
    settings = written(folder, fixed_list(folder, 2, 2, **more))
    command = [sys.executable, "-m", "search.cli", "search", str(settings)]
    started = time.monotonic()
    done = subprocess.run(
        [*command, *(["--address", address] if address else [])],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=280,
    )
    took = time.monotonic() - started
    print(f"known after {took:.1f} s: {done.stderr.strip()}")
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    assert took < SOON * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert not list((folder / "runs").glob("*fixed*"))
    own = [line for line in done.stderr.strip().splitlines() if not RAYS_OWN.match(line)]
    assert len(own) == 1, own
    return own[0]


@pytest.mark.slow
def test_away(tmp_path: Path) -> None:
    """Known within 15 s, with the address; nothing is left behind."""
    address = f"127.0.0.1:{free_port()}"
    assert f"--address {address}: nothing answers there" in refused(tmp_path, address)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["silent", "pages"])
def test_something_else(tmp_path: Path, what: str, request: pytest.FixtureRequest) -> None:
    """Where something listens that is no Ray cluster, that is known within 15 s."""
    address = request.getfixturevalue(what)
    assert f"--address {address}: can't be connected to" in refused(tmp_path, address)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_wrong_token(tmp_path: Path, head: Head) -> None:
    """Known within 15 s, with the address and where the token comes from."""
    sentence = refused(tmp_path, head.address, head.with_a_wrong_token)
    assert f"--address {head.address}: can't be connected to" in sentence and "RAY_AUTH_TOKEN" in sentence


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_more_accelerators_than_there_are(tmp_path: Path, head: Head) -> None:
    """More accelerators a trial than this machine or any node of the cluster has: known within 15 s, with what was
    asked for and what there is; no trial waits for ever."""
    wanted = {"resources": {"accelerators": 1}}
    assert "but there are" in refused(tmp_path, None, **wanted)
    sentence = refused(tmp_path, head.address, head.environment, **wanted)
    assert "a trial asks for" in sentence and "but no node has them" in sentence and "0 accelerators" in sentence
