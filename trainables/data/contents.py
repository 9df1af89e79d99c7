"""Hashes of files' contents, computed in parallel and remembered by path, size and time of modification."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from trainables.data.memory import Memory
from trainables.data.problems import Problems

DIGEST_BYTES = 16
FILES_A_TASK = 64  # a task for each of 200,000 files would cost more than hashing them
# A file written twice within the clock's resolution keeps its time of modification: young ones aren't remembered.
SETTLED_NS = 2_000_000_000


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
    problems = Problems("dataset")
    contents = try_content_hashes(root, paths, cache, problems, workers)
    problems.raise_if_any()
    return contents


def try_content_hashes(
    root: Path, paths: Sequence[str], cache: Path, problems: Problems, workers: int = 0
) -> np.ndarray:
    """As `content_hashes`, but empty for files that can't be read, which are added to `problems`."""
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]
    memory = Memory(cache / "contents" / f"{name}.sqlite", "contents", ("path", "size", "mtime_ns", "content"))
    known: dict[str, tuple[int, int, str]] = {path: (size, at, content) for path, size, at, content in memory.rows()}

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

    fresh: list[tuple[str, int, int, str]] = []
    contents: list[str] = []
    now = time.time_ns()
    with ThreadPoolExecutor(workers or cpus()) as pool:
        several = [paths[start : start + FILES_A_TASK] for start in range(0, len(paths), FILES_A_TASK)]
        found = chain.from_iterable(pool.map(look_at_several, several))
        for path, seen in zip(paths, found, strict=True):
            if isinstance(seen, OSError):
                problems.add(
                    "files that can't be read", f"{path}: can't be read ({seen.strerror}); give this user the right to."
                )
                contents.append("")
                continue
            contents.append(seen[2])
            if known.get(path) != seen and now - seen[1] > SETTLED_NS:
                fresh.append((path, *seen))
    memory.add(fresh)
    return np.array(contents, dtype=np.str_)


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
