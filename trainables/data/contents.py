"""Hashes of files' contents, computed in parallel and remembered by path, size and time of modification."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np

from spaces.mistakes import Mistake
from trainables.data.problems import Problems

log = logging.getLogger(__name__)

DIGEST_BYTES = 16
FILES_A_TASK = 64  # a task for each of 200,000 files would cost more than hashing them
# A file written twice within the clock's resolution keeps its time of modification: young ones aren't remembered.
SETTLED_NS = 2_000_000_000
_Known = dict[str, tuple[int, int, str]]  # path -> size, time of modification, content


def content_hash(data: bytes) -> str:
    """Hexadecimal BLAKE2b of 16 bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def content_hashes(root: Path, paths: Sequence[str], cache: Path, workers: int = 0) -> np.ndarray:
    """What `content_hash` gives for each file.

    Args:
        root: folder of the dataset.
        paths: [N] relative to root.
        cache: folder under which `contents/` remembers hashes of this root.
        workers: threads; 0 is one for each CPU that this process may use.

    Returns:
        [N] str.

    Raises:
        Mistake: files that can't be read, or a cache that can't be written.
    """
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]
    database = cache / "contents" / f"{name}.sqlite"
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        known = _remembered(database)
    except (OSError, sqlite3.OperationalError) as error:
        raise Mistake(f"cache: {database.parent} can't be used ({error}); set `cache` to a writable folder.") from None

    def look(path: str) -> tuple[int, int, str] | OSError:
        try:
            with (root / path).open("rb") as file:
                status = os.fstat(file.fileno())
                before = known.get(path)
                if before and before[:2] == (status.st_size, status.st_mtime_ns):
                    return before
                content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
                return status.st_size, status.st_mtime_ns, content
        except OSError as error:
            return error

    def look_at_several(some: Sequence[str]) -> list[tuple[int, int, str] | OSError]:
        return [look(path) for path in some]

    problems = Problems("dataset")
    fresh: _Known = {}
    contents: list[str] = []
    now = time.time_ns()
    with ThreadPoolExecutor(workers or cpus()) as pool:
        several = [paths[start : start + FILES_A_TASK] for start in range(0, len(paths), FILES_A_TASK)]
        found = chain.from_iterable(pool.map(look_at_several, several))
        for path, seen in zip(paths, found, strict=True):
            if isinstance(seen, OSError):
                problems.add("files that can't be read", f"{path}: can't be read ({seen.strerror}).")
                continue
            contents.append(seen[2])
            if known.get(path) != seen and now - seen[1] > SETTLED_NS:
                fresh[path] = seen
    problems.raise_if_any()
    _remember(database, fresh)
    return np.array(contents, dtype=np.str_)


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _remembered(database: Path) -> _Known:
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            connection.execute("create table if not exists contents (path text primary key, size, mtime_ns, content)")
            rows = connection.execute("select path, size, mtime_ns, content from contents")
            return {path: (size, mtime_ns, content) for path, size, mtime_ns, content in rows}
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        log.warning("%s is damaged (%s): deleted, contents are hashed again", database, error)
        database.unlink(missing_ok=True)
        return _remembered(database)


def _remember(database: Path, fresh: _Known) -> None:
    if not fresh:
        return
    rows = [(path, *seen) for path, seen in fresh.items()]
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            connection.executemany("insert or replace into contents values (?, ?, ?, ?)", rows)
    except sqlite3.Error as error:  # costs time at the next start, nothing else
        log.warning("%s: hashes of contents couldn't be remembered (%s)", database, error)
