"""A PostgreSQL server of our own, from the system's packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")


class Postgres:
    """A PostgreSQL server of our own on this machine, in a folder of its own."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.data, self.programs = folder / "data", programs
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = self._url("postgres")
        self._run("initdb", "-U", "medtune", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")

    def start(self) -> None:
        options = f"-p {self.port} -k '' -h 127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-w", "-t", "120", "-l", str(self.data / "log"), "-o", options, "start")

    def stop(self, mode: str) -> None:
        """`immediate` is as if it had crashed."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def database(self, name: str) -> str:
        """Makes a database; gives its address."""
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(SQL("create database {}").format(Identifier(name)))
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://medtune@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        # PostgreSQL refuses to be run by root; in a user namespace of its own, root is somebody else.
        somebody = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*somebody, str(self.programs / program), "-D", str(self.data), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server that runs; a test is skipped where the system has none."""
    found = [path.parent for place in PLACES for path in Path("/").glob(f"{place[1:]}/pg_ctl")]
    found += [Path(on_path).parent for on_path in [shutil.which("pg_ctl")] if on_path]
    if not found:
        pytest.skip("PostgreSQL's pg_ctl isn't installed")
    server = Postgres(tmp_path, found[-1])
    server.start()
    yield server
    if (server.data / "postmaster.pid").exists():
        server.stop("immediate")
