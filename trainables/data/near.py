"""Near-duplicates: images that look alike without being byte-identical copies, found by perceptual hashes."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spaces.mistakes import Mistake
from trainables.data.contents import cpus
from trainables.data.images import BadImage, open_image
from trainables.data.manifest import Manifest

log = logging.getLogger(__name__)

SIDE = 16
"""A hash has SIDE x SIDE bits: which of an image's low frequencies are above their median."""
LIMIT = 20
"""Of the 256 bits, in how many near-duplicates may differ: the same share as 5 of 64, up to which N. Krawetz ("Looks
Like It", 2011), who described this hash, takes images for the same. With 64 bits, different eyes are as near as copies
of one (measured on drawn photographs; not validated on the real datasets)."""
_WORDS = SIDE * SIDE // 64
_DECODED = (128, 128)  # a JPEG's decoder may shrink down to this; the hash itself is made from 64 x 64 pixels
_REMEMBERED_AT_ONCE = 500  # hashes: what a stopped start has to do again
_CHUNK = 256  # rows compared with all others at once


def join_near_duplicates(manifest: Manifest, cache: Path) -> Manifest:
    """The manifest with groups joined where images of theirs look alike, and a note that says how many.

    An image that can't be decoded is compared with none, and the note counts it; preparing the pixels names it.

    Args:
        cache: folder under which hashes are remembered by content.

    Raises:
        Mistake: a cache that can't be written.
    """
    hashes, known = perceptual_hashes(manifest.root, manifest.paths, manifest.contents, cache)
    contents, content = np.unique(manifest.contents, return_inverse=True)
    alike = np.full(len(manifest), -1)
    alike[known] = near_components(hashes[known])
    of_content = np.full(len(contents), -1)
    of_content[content] = alike
    several = np.flatnonzero(np.bincount(of_content[of_content >= 0]) > 1)  # more than copies of one content
    near = np.isin(alike, several)
    groups, joined = _joined(manifest.groups, alike, near)
    bits = f"perceptual hashes at most {LIMIT} of {SIDE * SIDE} bits apart"
    note = f"dataset: no image looks like another one that isn't a copy of it ({bits})."
    if near.any():
        note = (
            f"dataset: {int(near.sum())} images look like another one that isn't a copy of theirs ({bits}) and stay in "
            f"one part with it; {joined} groups were joined to others for it. "
            f"{_differing(manifest.labels, alike, near)} of these images look like one with another label."
        )
    if not known.all():
        note += f" {int((~known).sum())} images can't be decoded and were compared with none."
    return replace(manifest, groups=groups, notes=(*manifest.notes, note))


def perceptual_hashes(
    root: Path, paths: Sequence[str] | np.ndarray, contents: np.ndarray, cache: Path, workers: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Each image's hash by the discrete cosine transform (imagehash.phash), in parallel, remembered by content.

    Args:
        root: folder of the dataset.
        paths: [N] relative to root.
        contents: [N] str, hash of each file's bytes.
        cache: folder under which `near/` remembers perceptual hashes.
        workers: threads; 0 is one for each CPU that this process may use.

    Returns:
        [N, 4] uint64, and [N] bool: False where the image can't be decoded.

    Raises:
        Mistake: a cache that can't be written.
    """
    database = cache / "near" / f"phash-{SIDE}.sqlite"
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        remembered = _remembered(database)
    except (OSError, sqlite3.OperationalError) as error:
        raise Mistake(f"cache: {database.parent} can't be used ({error}); set `cache` to a writable folder.") from None
    distinct, first, content = np.unique(contents, return_index=True, return_inverse=True)
    missing = [row for name, row in zip(distinct.tolist(), first.tolist(), strict=True) if name not in remembered]
    if missing:
        log.info("%d images are decoded to find near-duplicates; their hashes are remembered", len(missing))
    with ThreadPoolExecutor(workers or cpus()) as pool:
        for start in range(0, len(missing), _REMEMBERED_AT_ONCE):
            rows = missing[start : start + _REMEMBERED_AT_ONCE]
            found = pool.map(lambda row: _hash(root / str(paths[row])), rows)
            fresh = {str(contents[row]): bits for row, bits in zip(rows, found, strict=True) if bits is not None}
            _remember(database, fresh)
            remembered |= fresh
    hashes = np.zeros((len(distinct), _WORDS), dtype=np.uint64)
    known = np.zeros(len(distinct), dtype=bool)
    for i, name in enumerate(distinct.tolist()):
        if name in remembered:
            hashes[i], known[i] = np.frombuffer(remembered[name], dtype="<u8"), True
    return hashes[content], known[content]


def near_components(hashes: np.ndarray, limit: int = LIMIT) -> np.ndarray:
    """Numbers of the connected components of images whose hashes differ in at most `limit` bits.

    Every pair is compared, some rows at a time; a pair whose first 64 bits differ too much isn't looked at further.
    Memory grows with N, not with the number of pairs.

    Args:
        hashes: [N, W] uint64.

    Returns:
        [N] int64, 0 to the number of components - 1.
    """
    if not len(hashes):
        return np.zeros(0, dtype=np.int64)
    distinct, of_hash = np.unique(hashes, axis=0, return_inverse=True)
    count = len(distinct)
    words = np.ascontiguousarray(distinct.T[_spread(distinct)])  # those first that tell most pairs apart
    component = np.arange(count)
    for start in range(0, count, _CHUNK):
        rows = slice(start, min(start + _CHUNK, count))
        first, second = np.nonzero(np.bitwise_count(words[0, rows, None] ^ words[0, start:]) <= limit)
        first, second = first + start, second + start
        later = first < second
        first, second = first[later], second[later]
        apart = np.zeros(len(first), dtype=np.int64)
        for word in words:
            apart += np.bitwise_count(word[first] ^ word[second])
            near = apart <= limit
            first, second, apart = first[near], second[near], apart[near]
        if len(first):
            _, member, component = np.unique(component, return_index=True, return_inverse=True)
            edges = np.concatenate([first, np.arange(count)]), np.concatenate([second, member[component]])
            graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(count, count))
            component = connected_components(graph, directed=False)[1]
    return np.unique(component, return_inverse=True)[1][of_hash.reshape(-1)].astype(np.int64)


def _spread(hashes: np.ndarray) -> np.ndarray:
    """[W] int64: words in the order of how much their bits vary, most first. `hashes`: [N, W] uint64."""
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).mean(axis=0)
    return np.argsort(-(bits * (1 - bits)).reshape(hashes.shape[1], -1).sum(axis=1), kind="stable")


def _joined(groups: np.ndarray, alike: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, int]:
    """Groups, each named by its first in alphabetical order, and how many lost their name."""
    names, group = np.unique(groups, return_inverse=True)
    nodes = len(names) + len(alike)
    edges = group[near], len(names) + alike[near]
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1][: len(names)]
    first = np.full(nodes, len(names))
    np.minimum.at(first, component, np.arange(len(names)))
    return names[first[component][group]], int((first[component] != np.arange(len(names))).sum())


def _differing(labels: np.ndarray, alike: np.ndarray, near: np.ndarray) -> int:
    """How many images are in a component of several labels."""
    label = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([alike[near], label[near]], axis=1), axis=0)
    several = np.bincount(pairs[:, 0], minlength=1) > 1
    return int(several[alike[near]].sum())


def _hash(path: Path) -> bytes | None:
    try:
        bits = imagehash.phash(open_image(path, _DECODED), hash_size=SIDE).hash
    except BadImage:
        return None
    return np.packbits(bits.reshape(-1)).tobytes()


def _remembered(database: Path) -> dict[str, bytes]:
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            connection.execute("create table if not exists hashes (content text primary key, bits blob)")
            found = dict(connection.execute("select content, bits from hashes").fetchall())
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        log.warning("%s is damaged (%s): deleted, images are hashed again", database, error)
        database.unlink(missing_ok=True)
        return _remembered(database)
    return {content: bits for content, bits in found.items() if len(bits) == 8 * _WORDS}


def _remember(database: Path, fresh: dict[str, bytes]) -> None:
    if not fresh:
        return
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            connection.executemany("insert or replace into hashes values (?, ?)", list(fresh.items()))
    except sqlite3.Error as error:  # costs time at the next start, nothing else
        log.warning("%s: perceptual hashes couldn't be remembered (%s)", database, error)
