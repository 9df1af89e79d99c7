"""Everything in databases: the record in PostgreSQL, and MLflow's own server on PostgreSQL too."""

import socket
from pathlib import Path

import pytest

from search.folder import SearchFolder
from search.study import JOURNAL
from tests.faults.postgres import Postgres
from tests.faults.searches import check_complete, check_mirrored, fixed_list, mlflow_server, ran, written
from tests.search.conftest import status, succeed


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_record_and_mlflow_in_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    """One search with both. The server has a run for each trial with each epoch once and in order; the commands read
    the record from the database alone, no journal is there."""
    store = postgres.database("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mlflow_server(tmp_path, port, store):
        settings = fixed_list(tmp_path, 6, 10, study=postgres.database("studies"), mlflow=f"http://127.0.0.1:{port}")
        done = ran("search", written(tmp_path, settings))
        assert done.returncode == 0, done.stdout + done.stderr
        found = SearchFolder(tmp_path / "runs" / "fixed")
        succeed("sync", found.path)
        check_complete(found, 6)
        assert not (found.path / JOURNAL).exists()
        check_mirrored(found, store)
        assert status(found.path)["states"] == {"complete": 6}
        succeed("export", found.path, "-o", tmp_path / "best.yaml")
        assert (tmp_path / "best.yaml").exists()
