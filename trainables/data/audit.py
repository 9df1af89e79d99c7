"""What a person should know of a dataset's files before learning from them: copies, images that look alike, conflicting
labels, sizes, damage.

Nothing here changes what is learned from. Files are looked at by threads, since reading and decoding wait for the disk
and release the interpreter.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainables.data.contents import cpus, try_content_hashes
from trainables.data.images import SUFFIXES, BadImage, Size, open_image, read_header
from trainables.data.manifest import Manifest
from trainables.data.near import Hashes, labels_numbered, looking_alike, perceptual_hashes, several
from trainables.data.pixels import Progress
from trainables.data.problems import Problems
from trainables.data.readers.paths import ignored, printable

MOST_HEADERS = 20_000  # headers read of a dataset; of a larger one, evenly spaced rows
GLANCE = (64, 64)  # target of a decoding that only shows whether it can be done: quick for JPEGs
A_STEP = 16  # files between two reports of progress


@dataclass(frozen=True)
class Copies:
    """Images with the same bytes."""

    images: int
    """That have at least one copy, the copies included."""
    contents: int
    """Different ones among them."""
    conflicts: tuple[tuple[str, ...], ...]
    """Paths of copies whose labels differ, copies of one image together."""
    agreeing: tuple[tuple[str, ...], ...] = ()
    """The same of those that are labelled alike."""


NONE = Copies(0, 0, ())


def copies(manifest: Manifest) -> Copies:
    """Byte-identical images of a manifest, and those among them that are labelled differently."""
    _, first, content, counts = np.unique(manifest.contents, return_index=True, return_inverse=True, return_counts=True)
    labels, of_first = manifest.labels, manifest.labels[first][content]
    same = (labels == of_first) | ((labels != labels) & (of_first != of_first))  # two NaN are the same label
    differs = ~same if same.ndim == 1 else ~same.all(axis=1)
    order = np.argsort(content, kind="stable")
    ends = counts.cumsum()
    several, conflicting = counts > 1, np.unique(content[differs])

    def of(contents: np.ndarray) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(manifest.paths[order[ends[c] - counts[c] : ends[c]]].tolist()) for c in contents)

    agreeing = np.setdiff1d(np.flatnonzero(several), conflicting)
    return Copies(int(counts[several].sum()), int(several.sum()), of(conflicting), of(agreeing))


@dataclass(frozen=True)
class Shapes:
    """Sizes (height, width, in pixels) and modes of images, by their headers."""

    looked_at: int
    """Images whose headers were read: evenly spaced ones of a large dataset."""
    by_mode: dict[str, Counter[Size]]
    """How many have which size; `grey` and `colour`."""


def shapes(manifest: Manifest) -> Shapes:
    """Reads headers only; images that have none that can be read are left out, since decoding tells of them."""
    step = max(1, -(-len(manifest) // MOST_HEADERS))
    by_mode: dict[str, Counter[Size]] = {}
    looked_at = 0

    def look(path: str) -> tuple[str, Size] | None:
        try:
            header = read_header(manifest.root / path)
        except (BadImage, OSError):
            return None
        return "grey" if header.grey else "colour", header.size

    with ThreadPoolExecutor(cpus()) as pool:
        for seen in pool.map(look, manifest.paths[::step].tolist()):
            if seen is not None:
                by_mode.setdefault(seen[0], Counter())[seen[1]] += 1
                looked_at += 1
    return Shapes(looked_at, by_mode)


@dataclass(frozen=True)
class Alike:
    """Images that look alike without all being copies of one."""

    images: tuple[tuple[str, str], ...]
    """Path and part of the split of each."""
    groups: int
    """That they are of."""
    labels_differ: bool

    @property
    def parts(self) -> set[str]:
        return {part for _, part in self.images}


@dataclass(frozen=True)
class Looked:
    """What was seen of a dataset's images, all of them decoded once."""

    images: int
    bad: dict[str, str]
    """Paths of those that can't be used, and why, as a clause."""
    copies: Copies
    """Among the others."""
    alike: tuple[Alike, ...]
    """The same: those first that the split tears apart, then those whose labels differ, then by size."""


def look_at_images(manifest: Manifest, parts: np.ndarray, cache: Path, progress: Progress | None = None) -> Looked:
    """Decodes every image once that isn't known from an earlier look at the same bytes, of the test too, and keeps
    nothing of it but a perceptual hash.

    Args:
        parts: [N] str, the part of the split that each row is in, "" for none.
        cache: folder under which hashes are remembered by content.
        progress: called with (images done, images).

    Raises:
        Mistake: a cache that can't be written.
    """
    hashes = perceptual_hashes(manifest.root, manifest.paths, manifest.contents, cache, progress)
    good = np.setdiff1d(np.arange(len(manifest)), list(hashes.bad))
    return Looked(len(manifest), _bad(manifest, hashes), copies(manifest.take(good)), _alike(manifest, parts, hashes))


def _alike(manifest: Manifest, parts: np.ndarray, hashes: Hashes) -> tuple[Alike, ...]:
    alike = looking_alike(hashes, manifest.contents)
    if not (alike >= 0).any():
        return ()
    order = np.argsort(alike, kind="stable")[int((alike < 0).sum()) :]
    differ = several(alike, labels_numbered(manifest.labels))
    found = []
    for number, rows in enumerate(np.split(order, np.flatnonzero(np.diff(alike[order])) + 1)):
        images = tuple(zip(manifest.paths[rows].tolist(), parts[rows].tolist(), strict=True))
        found.append(Alike(images, len(np.unique(manifest.groups[rows])), bool(differ[number])))
    return tuple(sorted(found, key=lambda a: (len(a.parts) < 2, not a.labels_differ, -len(a.images), a.images[0])))


def look_at_files(root: Path, labelled: Mapping[str, str], cache: Path, progress: Progress | None = None) -> Looked:
    """Of a dataset whose tables are too wrong to say which images it needs: decodes every image file under its folder,
    and looks for copies and for images that look alike among those whose rows can be used.

    Args:
        labelled: paths of these relative to root, and how each is labelled.

    Raises:
        Mistake: a cache that can't be written.
    """
    paths = sorted(labelled)
    contents = try_content_hashes(root, paths, cache, Problems("dataset"))  # unreadable ones are told with all files
    read = [(path, str(content)) for path, content in zip(paths, contents, strict=True) if content]
    others = sorted(set(_image_files(root)) - {path for path, _ in read})
    total = len(others) + len(read)
    bad = unusable(root, others, lambda done, _: progress(done, total) if progress else None)
    if not read:
        return Looked(total, bad, NONE, ())
    words = sorted(set(labelled.values()))
    manifest = Manifest(
        root=root,
        classes=tuple(words),
        metric="accuracy",  # as good as any: nothing is evaluated
        paths=np.array([path for path, _ in read], dtype=np.str_),
        contents=(known := np.array([content for _, content in read], dtype=np.str_)),
        labels=np.array([words.index(labelled[path]) for path, _ in read], dtype=np.int64),
        groups=known,
    )
    found = look_at_images(
        manifest, manifest.official, cache, lambda done, _: progress(len(others) + done, total) if progress else None
    )
    return replace(found, images=total, bad={**found.bad, **bad})


def refuse_damaged(manifest: Manifest, cache: Path, progress: Progress | None = None) -> None:
    """Decodes every image once that isn't known from an earlier look at the same bytes, for its perceptual hash.

    Raises:
        Mistake: files that can't be used, by their paths relative to root, or a cache that can't be written.
    """
    hashes = perceptual_hashes(manifest.root, manifest.paths, manifest.contents, cache, progress)
    refuse_bad(_bad(manifest, hashes), len(manifest))


def _bad(manifest: Manifest, hashes: Hashes) -> dict[str, str]:
    return {str(manifest.paths[row]): reason for row, reason in hashes.bad.items()}


def unusable(root: Path, files: Sequence[str], progress: Progress | None = None) -> dict[str, str]:
    """Decodes image files; paths of those that can't be used, and why.

    Args:
        files: relative to root.
        progress: called with (files done, files).
    """

    def look(path: str) -> str | None:
        try:
            open_image(root / path, GLANCE)
        except BadImage as bad:
            return bad.reason
        except OSError as error:
            return f"can't be read ({error.strerror})"
        return None

    bad: dict[str, str] = {}
    for done, (path, reason) in enumerate(zip(files, _in_threads(look, files), strict=True), start=1):
        if reason is not None:
            bad[path] = reason
        if progress is not None and (done % A_STEP == 0 or done == len(files)):
            progress(done, len(files))
    return bad


def refuse_bad(bad: Mapping[str, str], among: int) -> None:
    """
    Args:
        bad: paths of images that can't be used, and why.
        among: how many were looked at.

    Raises:
        Mistake: there are some, with counts.
    """
    problems = Problems("dataset")
    if bad:
        sentence = f"dataset: {len(bad)} of the {among} images can't be used; repair them, or take them out."
        problems.add("counts of bad images", sentence)
    for path, reason in sorted(bad.items()):
        problems.add("images that can't be used", f"{printable(path)}: {reason}.")
    problems.raise_if_any()


def _in_threads(look: Callable[[str], str | None], files: Sequence[str]) -> Iterator[str | None]:
    pool = ThreadPoolExecutor(cpus())
    try:
        yield from pool.map(look, files)
    finally:
        pool.shutdown(cancel_futures=True)  # where the person has seen enough


def _image_files(root: Path) -> Iterator[str]:
    """Relative to root, with forward slashes; links to folders aren't followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not ignored(name)]
        for name in names:
            path = Path(folder) / name
            if path.suffix.lower() in SUFFIXES and not ignored(name) and path.is_file():
                yield path.relative_to(root).as_posix()
