"""MLflow's pages for a search, open to this machine only."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from search.disclosure import public_uri
from search.mlflow_store import MLFLOW_SETTINGS, SQLITE, artifacts
from search.tracking import reachable, settings, tracking_uri
from spaces.mistakes import Mistake

HOST, USUAL_PORT = "127.0.0.1", 5000
STARTING = 120  # seconds
SERVER_SETTINGS = MLFLOW_SETTINGS | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven processes fewer


def serve(folder: Path, port: int | None = None) -> None:
    """Runs MLflow's server for the search in `folder` until Ctrl-C. For a search that is mirrored to a server already,
    only names its address.

    Args:
        port: to listen on; 5000, or any free one, by default.

    Raises:
        Mistake: MLflow is off, nothing was mirrored yet, the port is taken, or the server doesn't start.
    """
    uri = tracking_uri(folder, settings(folder).mlflow)
    if not uri.startswith(SQLITE):
        reachable(uri)
        print(f"{public_uri(uri)} has the search: open it in a browser.", flush=True)
        return
    if not Path(uri.removeprefix(SQLITE)).exists():
        raise Mistake(f'nothing of "{folder.name}" is in MLflow yet; run "medtune sync {folder}" first.')
    port = free_port(port)
    with _writable(uri) as store, tempfile.TemporaryFile() as said:
        command = server_command(store, port, artifacts(uri))
        server = subprocess.Popen(command, env=os.environ | SERVER_SETTINGS, stdout=said, stderr=said)
        try:
            _wait_for(server, port)
            print(f"MLflow: http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
            if server.wait():
                raise Mistake("MLflow's server ended; what it said is above. Start it again.")
        except Mistake:
            said.seek(0)
            print(said.read().decode(errors="replace"), file=sys.stderr, flush=True)
            raise
        except KeyboardInterrupt:
            pass
        finally:
            server.terminate()
            server.wait()


@contextmanager
def _writable(uri: str) -> Iterator[str]:
    """The address of a SQLite store that MLflow's server may write to, which it does when it starts: for a person who
    may only read a storage, a copy of its database, which goes again."""
    path = Path(uri.removeprefix(SQLITE))
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="medtune-ui-") as folder:
        copy = Path(folder) / path.name
        source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        with closing(source), closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        print("This storage can only be read by you: the pages show a copy of how it is now.", flush=True)
        yield f"sqlite:///{copy}"


def server_command(uri: str, port: int, destination: Path) -> list[str]:
    """MLflow's server on a store, to be run with `SERVER_SETTINGS` in the environment.

    Args:
        uri: of the store: a database.
        destination: folder of artifacts.
    """
    options = {
        "--backend-store-uri": uri,
        "--artifacts-destination": str(destination),
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
    }
    return [sys.executable, "-m", "mlflow", "server", *(word for option in options.items() for word in option)]


def free_port(wanted: int | None = None) -> int:
    """A port of this machine that nothing listens on.

    Raises:
        Mistake: the wanted one is taken.
    """
    for port in (wanted,) if wanted else (USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Mistake(f"port {wanted} of this machine is taken; choose another one.")


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline and server.poll() is None:
        try:
            reachable(f"http://{HOST}:{port}", 1)
            return
        except Mistake:
            time.sleep(0.2)
    raise Mistake("MLflow's server didn't start; what it said is above; set that right, and try again.")
