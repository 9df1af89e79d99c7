"""Arrays on disk, named by what is in them: written once on a machine, mapped by all of its processes.

<home>/<key>/array holds the numbers, meta.json their shape and the digests of chunks. Both are written in a folder of
another name under a lock, which is then renamed, so that a folder named by a key is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from spaces.strict import digest
from trainables import watchdog
from trainables.data.contents import cpus
from trainables.files import sync, write_json

log = logging.getLogger(__name__)

FORMAT = 1
CHUNK = 64 << 20  # bytes that one digest covers
PIXELS, ACTIVATIONS = "pixels", "activations"  # folders of arrays in a cache
ARRAY, META, PARTIAL = "array", "meta.json", ".partial"

IDLE = 7 * 24 * 3600.0  # seconds without being wanted after which an array may make room where a disk is full

_verified: set[tuple[str, int, int]] = set()  # path, inode and time of files whose digests this process has checked


def stored(home: Path, key: str) -> np.memmap | None:
    """The array of a key, mapped; None where it isn't there, or is damaged. Its digests are checked once a process."""
    folder = home / key
    if not folder.is_dir():
        return None
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta.pop("digest") != digest(meta):
            raise ValueError("its description doesn't match its digest")
        shape, dtype = tuple(meta["shape"]), np.dtype(meta["dtype"])
        file = folder / ARRAY
        status = file.stat()
        if status.st_size != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise ValueError(f"it has {status.st_size} bytes, which isn't what its shape says")
        identity = (str(file), status.st_ino, status.st_mtime_ns)
        if identity not in _verified:
            if chunk_digests(file, meta["chunk"]) != meta["chunks"]:
                raise ValueError("its content doesn't match its digests")
            _verified.add(identity)
        os.utime(folder)  # when it was last wanted, for `make_room`
        return np.memmap(file, dtype=dtype, mode="r", shape=shape)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        if folder.is_dir():
            log.warning("the stored array %s is damaged (%s): it is built again", key[:12], error)
        return None


def built(
    home: Path,
    key: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    fill: Callable[[np.memmap], None],
    budget: int | None = None,
) -> np.memmap | None:
    """The array of a key; written by `fill` where it isn't there, once, however many processes ask at a time.

    Args:
        fill: writes every element of the array that it is given.
        budget: bytes that all arrays under `home` may take: those that weren't wanted for longest make room.

    Returns:
        The array, mapped; None where it doesn't fit the budget.

    Raises:
        OSError: no space left, or `home` can't be written.
    """
    home.mkdir(parents=True, exist_ok=True)
    with only_builder(home, key):
        array = stored(home, key)
        if array is not None:
            return array
        shutil.rmtree(home / key, ignore_errors=True)
        needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        partial = home / f"{key}{PARTIAL}"
        try:
            with only_builder(home, "room"):
                shutil.rmtree(partial, ignore_errors=True)  # what a killed process left
                if budget is not None and not make_room(home, needed, budget):
                    return None
                partial.mkdir()
                _reserve(partial / ARRAY, needed)  # a full disk is known now, and others see what this one takes
            writing = np.memmap(partial / ARRAY, dtype=dtype, mode="r+", shape=shape)
            fill(writing)
            writing.flush()
            del writing
            sync(partial / ARRAY)
            write_meta(partial, shape, dtype)
            with only_builder(home, "room"):  # whoever makes room counts it under one of its names, and leaves it there
                partial.rename(home / key)
                sync(home)
                trust(home, key)
                return stored(home, key)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def only_builder(home: Path, key: str) -> Iterator[None]:
    """Keeps other processes from building a key. One that waits isn't hanging: a builder that hangs is ended itself,
    and the system takes the lock from it."""
    lock = FileLock(home / f"{key}.lock")
    with watchdog.paused():
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_meta(
    folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any], more: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Describes the array that was written into a folder, with its digests and what else is worth knowing of it."""
    meta = {
        "format": FORMAT,
        "shape": list(shape),
        "dtype": dtype.str,
        "chunk": CHUNK,
        "chunks": chunk_digests(folder / ARRAY, CHUNK),
        **more,
    }
    write_json(folder / META, {**meta, "digest": digest(meta)})


def trust(home: Path, key: str) -> None:
    """Spares this process the check of digests that it has just computed."""
    status = (home / key / ARRAY).stat()
    _verified.add((str(home / key / ARRAY), status.st_ino, status.st_mtime_ns))


def make_room(home: Path, needed: int, budget: int) -> bool:
    """Removes arrays, those not wanted for longest first, until `needed` more bytes fit the budget; whether they do.

    A process that has one mapped keeps what it has mapped.
    """
    if needed > budget:
        return False
    _remove_abandoned(home)
    sizes = {folder: _size(folder) for folder in home.iterdir() if folder.is_dir()}
    removable = sorted((f for f in sizes if f.suffix != PARTIAL), key=_wanted_at)
    taken = sum(sizes.values())
    while taken + needed > budget and removable:
        oldest = removable.pop(0)
        shutil.rmtree(oldest, ignore_errors=True)
        taken -= sizes[oldest]
    return taken + needed <= budget


def free_disk(home: Path, needed: int, idle: float = IDLE) -> None:
    """Where less than `needed` bytes are free on the disk, removes arrays that nobody has wanted for `idle` seconds,
    the longest unwanted first, until they are."""
    if shutil.disk_usage(home).free >= needed:
        return
    _remove_abandoned(home)
    for folder in unwanted(home, idle):
        log.warning("the stored array %s, long unwanted, makes room on a full disk", folder.name[:12])
        shutil.rmtree(folder, ignore_errors=True)
        if shutil.disk_usage(home).free >= needed:
            return


def unwanted(home: Path, idle: float = IDLE) -> list[Path]:
    """Arrays that nobody has wanted for `idle` seconds, the longest unwanted first."""
    times = {}
    for folder in home.glob("*"):
        with suppress(FileNotFoundError):
            if folder.is_dir() and folder.suffix != PARTIAL:
                times[folder] = folder.stat().st_mtime
    return sorted((one for one, at in times.items() if time.time() - at > idle), key=lambda one: times[one])


def _remove_abandoned(home: Path) -> None:
    """Removes what killed processes left half-built: nobody holds its lock."""
    for partial in home.glob(f"*{PARTIAL}"):
        with suppress(Timeout), FileLock(partial.with_suffix(".lock"), timeout=0):
            shutil.rmtree(partial, ignore_errors=True)


def chunk_digests(file: Path, chunk: int) -> list[str]:
    """Hexadecimal BLAKE2b of each `chunk` bytes, computed in parallel."""

    def one(start: int) -> str:
        total = hashlib.blake2b(digest_size=16)
        with file.open("rb") as source:
            source.seek(start)
            left = chunk
            while left and (data := source.read(min(left, 1 << 20))):
                total.update(data)
                watchdog.beat()
                left -= len(data)
        return total.hexdigest()

    with ThreadPoolExecutor(cpus()) as pool:
        return list(pool.map(one, range(0, file.stat().st_size, chunk)))


def _reserve(file: Path, size: int) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, max(size, 1))
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _size(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except FileNotFoundError:
        return 0  # removed meanwhile


def _wanted_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # removed meanwhile
