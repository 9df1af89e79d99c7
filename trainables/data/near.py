"""Near-duplicates: images that look alike without being byte-identical copies, found by perceptual hashes.

Images are looked at by threads, since reading and decoding wait for the disk and release the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import imagehash
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trainables.data.contents import cpus
from trainables.data.hamming import near_components
from trainables.data.images import BadImage, open_image
from trainables.data.manifest import Manifest
from trainables.data.memory import Memory
from trainables.data.pixels import Progress

SIDE = 16
"""A hash has SIDE x SIDE bits: which of an image's low frequencies are above their median."""
LIMIT = 20
"""Of the 256 bits, in how many near-duplicates may differ: the same share as 5 of 64, up to which N. Krawetz ("Looks
Like It", 2011), who described this hash, takes images for the same. With 64 bits, different eyes are as near as copies
of one (measured on drawn photographs; not validated on the real datasets)."""
DISTANCE = f"perceptual hashes at most {LIMIT} of {SIDE * SIDE} bits apart"
_WORDS = SIDE * SIDE // 64
_DECODED = (128, 128)  # a JPEG's decoder may shrink down to this; the hash itself is made from 64 x 64 pixels
_AT_ONCE = 512  # images after which hashes are remembered: what a stopped start has to do again
_A_STEP = 16  # images between two reports of progress


@dataclass(frozen=True, eq=False)
class Hashes:
    """What was seen of images that were decoded once."""

    bits: np.ndarray
    """[N, 4] uint64, 0 where an image can't be decoded."""
    bad: dict[int, str]
    """Rows of images that can't be decoded, and why, as a clause without the file's name."""


def join_near_duplicates(manifest: Manifest, cache: Path) -> Manifest:
    """The manifest with groups joined where images of theirs look alike, and a note that says how many.

    An image that can't be decoded is compared with none, and the note counts it; preparing the pixels names it.

    Args:
        cache: folder under which hashes are remembered by content.

    Raises:
        Mistake: a cache that can't be written.
    """
    hashes = perceptual_hashes(manifest.root, manifest.paths, manifest.contents, cache)
    alike = looking_alike(hashes, manifest.contents)
    near = alike >= 0
    groups, joined = _joined(manifest.groups, alike, near)
    note = f"dataset: no image looks like another one that isn't a copy of it ({DISTANCE})."
    if near.any():
        differing = several(alike, labels_numbered(manifest.labels))
        note = (
            f"dataset: {int(near.sum())} images look like another one that isn't a copy of theirs ({DISTANCE}) and "
            f"stay in one part with it; {joined} groups were joined to others for it. "
            f"{int(differing[alike[near]].sum())} of these images look like one with another label."
        )
    if hashes.bad:
        note += f" {len(hashes.bad)} images can't be decoded and were compared with none."
    return replace(manifest, groups=groups, notes=(*manifest.notes, note))


def looking_alike(hashes: Hashes, contents: np.ndarray) -> np.ndarray:
    """[N] int64: images of the same number look alike, directly or by way of others; -1 for those that look like no
    image but copies of their own.

    Args:
        contents: [N] str, hash of each file's bytes.
    """
    component = np.full(len(contents), -1)
    known = np.setdiff1d(np.arange(len(contents)), list(hashes.bad))
    component[known] = near_components(hashes.bits[known], LIMIT)
    of = np.unique(contents, return_inverse=True)[1]
    seen = component >= 0
    alike = seen.copy()
    alike[seen] = several(component[seen], of[seen])[component[seen]]
    numbers = np.full(len(contents), -1)
    numbers[alike] = np.unique(component[alike], return_inverse=True)[1]
    return numbers


def several(sets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """By number of a set, whether it has more than one value.

    Args:
        sets: [N] int64, -1 for rows of no set.
        values: [N] int64.

    Returns:
        [number of sets] bool.
    """
    inside = sets >= 0
    pairs = np.unique(np.stack([sets[inside], values[inside]], axis=1), axis=0)
    return np.bincount(pairs[:, 0]) > 1


def labels_numbered(labels: np.ndarray) -> np.ndarray:
    """[N] int64: rows of the same number have the same label, or findings [N, L] of which those that aren't mentioned
    (NaN) are the same too."""
    if labels.ndim == 1:
        return labels
    return np.unique(np.nan_to_num(labels, nan=np.inf), axis=0, return_inverse=True)[1].reshape(-1)


def perceptual_hashes(
    root: Path,
    paths: Sequence[str] | np.ndarray,
    contents: np.ndarray,
    cache: Path,
    progress: Progress | None = None,
    workers: int = 0,
) -> Hashes:
    """Each image's hash by the discrete cosine transform (imagehash.phash), in parallel, remembered by content.

    Args:
        root: folder of the dataset.
        paths: [N] relative to root.
        contents: [N] str, hash of each file's bytes.
        cache: folder under which `near/` remembers perceptual hashes.
        progress: called with (images done, images), those that are remembered included.
        workers: threads; 0 is one for each CPU that this process may use.

    Raises:
        Mistake: a cache that can't be written.
    """
    memory = Memory(cache / "near" / f"phash-{SIDE}.sqlite", "hashes", ("content", "bits"))
    distinct, first, of, counts = np.unique(contents, return_index=True, return_inverse=True, return_counts=True)
    remembered: dict[str, bytes] = {content: bits for content, bits in memory.rows() if len(bits) == 8 * _WORDS}
    found: list[bytes | str] = [remembered.get(content, "") for content in distinct.tolist()]
    missing = sorted((i for i, bits in enumerate(found) if not bits), key=first.__getitem__)  # as they lie on disk
    done = len(contents) - int(counts[missing].sum())
    pool = ThreadPoolExecutor(workers or cpus())
    try:
        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE]
            files = [root / str(paths[first[i]]) for i in some]
            for i, seen in zip(some, pool.map(_hash, files), strict=True):
                found[i] = seen
                before, done = done, done + int(counts[i])
                if progress and (before // _A_STEP < done // _A_STEP or done == len(contents)):
                    progress(done, len(contents))
            memory.add([(str(distinct[i]), bits) for i in some if isinstance(bits := found[i], bytes)])
    finally:
        pool.shutdown(cancel_futures=True)  # where the person has seen enough
    words = [np.frombuffer(seen if isinstance(seen, bytes) else bytes(8 * _WORDS), dtype="<u8") for seen in found]
    bad = {row: seen for row, i in enumerate(of.tolist()) if isinstance(seen := found[i], str)}
    return Hashes(np.array(words, dtype=np.uint64).reshape(-1, _WORDS)[of], bad)


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


def _hash(path: Path) -> bytes | str:
    """The bits, or why there are none."""
    try:
        bits = imagehash.phash(open_image(path, _DECODED), hash_size=SIDE).hash
    except BadImage as bad:
        return bad.reason
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return np.packbits(bits.reshape(-1)).tobytes()
