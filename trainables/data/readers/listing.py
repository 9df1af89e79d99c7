"""The files of a dataset, listed folder by folder: quicker than asking for each of hundreds of thousands of paths."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainables.data.images import SUFFIXES
from trainables.data.readers.paths import Root, ignored

_THREADS = 8  # what waits is the disk or the network
_BATCH = 500  # folders a task, since a task costs as much as a folder


class Listing:
    """Files under some folders of a dataset. A link is none of them: `problem` looks at it by itself."""

    def __init__(self, root: Path, folders: Iterable[str]) -> None:
        """`folders`: relative to root, with forward slashes; those that don't exist are empty."""
        self._root = Root(root)
        self.files: frozenset[str] = frozenset(_files(root, [f for f in folders if (root / f).is_dir()]))

    def problem(self, path: str) -> str | None:
        """As `Root.problem`: why the file can't be used, as a clause that follows its name, or None where it can."""
        return None if path in self.files else self._root.problem(path)

    def images(self) -> list[str]:
        """Those that have an image's suffix, sorted, without what viewers leave behind."""
        return sorted(
            path
            for path in self.files
            if path[path.rfind(".") :].lower() in SUFFIXES and not ignored(path.rsplit("/", 1)[-1])
        )


def _files(root: Path, folders: list[str]) -> list[str]:
    """Folders are walked level by level, since one alone may hold all others."""
    level = [folder for folder in folders if not _linked(root, folder)]
    found: list[str] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        while level:
            batches = [level[start : start + _BATCH] for start in range(0, len(level), _BATCH)]
            level = []
            for inner, files in pool.map(lambda batch: _entries(root, batch), batches):
                level += inner
                found += files
    return found


def _linked(root: Path, folder: str) -> bool:
    parts = Path(folder).parts
    return any((root / Path(*parts[: i + 1])).is_symlink() for i in range(len(parts)))


def _entries(root: Path, batch: list[str]) -> tuple[list[str], list[str]]:
    """Folders and files in some folders."""
    folders, files = [], []
    for folder in batch:
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{folder}/{entry.name}")
                    elif entry.is_file(follow_symlinks=False) and _utf8(entry.name):
                        files.append(f"{folder}/{entry.name}")
        except OSError:
            continue  # each file that is asked for in it has a problem of its own
    return folders, files


def _utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
