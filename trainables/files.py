"""Files and folders that others see as they were or as they are now, never half of them: written beside their place
under a hidden name, flushed to the disk, renamed. They survive a power cut, and take the user's own permissions."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

_PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` when the block ends, and vanishes when it raises.

    Folders above `path` are made where they are missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def as_new(path: Path) -> Iterator[None]:
    """For a library that keeps what it writes from others: within the block it makes `path`, which has a new file's
    permissions in the end."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    yield
    path.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8, with its line ends as they are."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=1) + "\n")


@contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """A new folder to write files into, which becomes `path` when the block ends, and vanishes when it raises.

    An earlier `path` is replaced; no file system does that in one step, so that a reader may find neither of them for
    an instant. Folders above `path` are made where they are missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = _beside(path), _beside(path)
    partial.mkdir()
    try:
        yield partial
        for entry in [*partial.rglob("*"), partial]:
            sync(entry)
        if path.exists():
            path.rename(old)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_partial(folder: Path, pattern: str) -> None:
    """Removes what a killed process left beside files and folders whose names match `pattern`. Its writers must be
    known to be gone."""
    for left in folder.glob(f".{pattern}.*{_PARTIAL}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """To the disk itself: a file's content, or the names in a folder, without which a rename isn't durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(6)}{_PARTIAL}"
