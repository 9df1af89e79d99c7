"""What listens while the product runs: this machine alone can reach it."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.study import JOURNAL
from tests.search.conftest import Killable, digits, finished, killable, settings

assert digits and finished and killable and settings  # fixtures


def listening(processes: list[psutil.Process]) -> Iterator[tuple[str, str, int]]:
    """Name, address and port of what takes connections."""
    for process in processes:
        try:
            sockets = process.net_connections(kind="inet")
            name = process.name()
        except psutil.Error:
            continue  # it has ended
        for one in sockets:
            if one.status == psutil.CONN_LISTEN:
                yield name, one.laddr.ip, one.laddr.port


def wait_until(condition: Callable[[], bool], seconds: float = 280) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.2)


def beyond_loopback(command: Killable) -> list[tuple[str, str, int]]:
    found = list(listening(command.all()))
    assert found, "something listens, or this test sees nothing"
    print(*sorted(found), sep="\n")
    return [one for one in found if not is_loopback(one[1])]


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback


def test_addresses() -> None:
    """What is loopback, in every spelling, and what isn't."""
    assert all(map(is_loopback, ("127.0.0.1", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.2", "::ffff:192.0.2.2")))


@pytest.mark.slow
def test_a_search_listens_on_loopback_alone(settings: Path, tmp_path: Path, killable: Any) -> None:
    """While trials run, no socket of the driver, of Ray or of the mirror takes connections from another machine."""
    command = killable("search", settings)
    journal = tmp_path / "runs" / "digits" / JOURNAL

    def trials_run() -> bool:
        assert command.process.poll() is None, "it ended before anything could be seen"
        return journal.exists() and b"medtune:epoch" in journal.read_bytes()

    wait_until(trials_run)
    assert beyond_loopback(command) == []


@pytest.mark.slow
def test_mlflows_pages_listen_on_loopback_alone(finished: Path, killable: Any) -> None:
    """`medtune ui` serves this machine alone."""
    command = killable("ui", finished)
    wait_until(lambda: bool(list(listening(command.all()))))
    assert beyond_loopback(command) == []
