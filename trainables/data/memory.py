"""What was once found out of files, kept in SQLite between starts. Losing it costs time, nothing else."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

from spaces.mistakes import Mistake

log = logging.getLogger(__name__)

_PATIENCE = 60  # seconds that a process waits for another one that writes


class Memory:
    """A table in a file of its own. Several processes may read it and add to it at once."""

    def __init__(self, database: Path, table: str, columns: tuple[str, ...]) -> None:
        """
        Args:
            database: the file; made where it is missing.
            table: name of its only table.
            columns: their names; the first is the key.
        """
        self.database = database
        self._columns = ", ".join(columns)
        self._table = table
        self._create = f"create table if not exists {table} ({columns[0]} text primary key, {', '.join(columns[1:])})"
        self._insert = f"insert or replace into {table} values ({', '.join('?' * len(columns))})"

    def rows(self) -> list[tuple[Any, ...]]:
        """All that is remembered; a damaged file is deleted with a warning.

        Raises:
            Mistake: a cache that can't be written.
        """
        try:
            self.database.parent.mkdir(parents=True, exist_ok=True)
            return self._rows()
        except (OSError, sqlite3.OperationalError) as error:
            raise Mistake(
                f"cache: {self.database.parent} can't be used ({error}); set `cache` to a writable folder."
            ) from None

    def add(self, rows: Collection[tuple[Any, ...]]) -> None:
        """Remembers rows, in place of those of the same key; where that can't be done, it is said and nothing more."""
        if not rows:
            return
        try:
            with closing(sqlite3.connect(self.database, timeout=_PATIENCE)) as connection, connection:
                connection.executemany(self._insert, rows)
        except sqlite3.Error as error:
            log.warning("%s: %d rows couldn't be remembered (%s)", self.database, len(rows), error)

    def _rows(self) -> list[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(self.database, timeout=_PATIENCE)) as connection:
                connection.execute(self._create)
                return connection.execute(f"select {self._columns} from {self._table}").fetchall()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            log.warning("%s is damaged (%s): deleted, what it held is found out again", self.database, error)
            self.database.unlink(missing_ok=True)
            return self._rows()
