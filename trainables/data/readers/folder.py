"""Images in a folder for each class: <root>/<class>/**, or <root>/{train,validation,test}/<class>/**."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import field_validator

from spaces.mistakes import Mistake
from spaces.strict import Strict
from trainables.data.contents import content_hashes
from trainables.data.images import SUFFIXES
from trainables.data.manifest import ALONE, Manifest
from trainables.data.near import join_near_duplicates
from trainables.data.problems import Problems
from trainables.data.readers.paths import Root, ignored, printable

SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class Options(Strict):
    """Options of the image folder reader."""

    groups: str | None = None
    """Regular expression, searched in each path relative to root; its named group `group` names the image's group.
    Without it, images of the same content are a group."""
    near_duplicates: Literal["group", "ignore"] = "ignore"
    """Whether images that look alike are kept in one part (trainables.data.near), for which all are decoded once."""

    @field_validator("groups")
    @classmethod
    def _names_a_group(cls, value: str | None) -> str | None:
        try:
            named = value is None or "group" in re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"should be a regular expression ({error})") from None
        if not named:
            raise ValueError("should have a named group, as in patient(?P<group>[0-9]+)")
        return value


def read(root: Path, options: Options, cache: Path) -> Manifest:
    """The manifest of a folder of class folders. Classes are sorted by name, rows by path.

    Hidden files and thumbnails are ignored, and so are files directly in root that aren't images (a licence, a note).

    Raises:
        Mistake: no classes, empty class folders, images outside of a class, other files inside one, links that leave
            the root, paths without a group; all of them together.
    """
    problems = Problems("dataset")
    parts = _parts(root, problems)
    problems.raise_if_any()
    paths: list[str] = []
    names: list[str] = []
    official: list[str] = []
    safe = Root(root)
    for folder, part in parts:
        prefix = folder.relative_to(root).as_posix()
        classes = _class_folders(root, folder, problems)
        if not classes:
            where = "the dataset's root" if prefix == "." else f"{prefix}/"
            problems.add("folders without classes", f"{where}: expected a folder for each class, found none.")
        for entry in classes:
            found = sorted(_images(root, entry, safe, problems))
            if not found:
                problems.add(
                    "empty classes",
                    f"{entry.relative_to(root).as_posix()}/: a class folder without images; remove it.",
                )
            paths += found
            names += [entry.name] * len(found)
            official += [part] * len(found)
    if len(set(names)) == 1:
        problems.add(
            "datasets of one class", f'dataset: only images of class "{names[0]}"; expected two classes or more.'
        )
    groups = _groups(paths, options.groups, problems)
    problems.raise_if_any(dict(zip(paths, names, strict=True)))

    order = sorted(range(len(paths)), key=paths.__getitem__)
    ordered = [paths[i] for i in order]
    contents = content_hashes(root, ordered, cache)
    known = tuple(sorted(set(names)))
    manifest = Manifest(
        root=root,
        task="classification",
        classes=known,
        metric="balanced_accuracy",
        policy="natural",
        paths=np.array(ordered, dtype=np.str_),
        contents=contents,
        labels=np.array([known.index(names[i]) for i in order], dtype=np.int64),
        groups=contents if groups is None else np.array([groups[i] for i in order], dtype=np.str_),
        official=np.array([official[i] for i in order], dtype=np.str_),
        caveats=(ALONE,) if groups is None else (),
    )
    return join_near_duplicates(manifest, cache) if options.near_duplicates == "group" else manifest


def _parts(root: Path, problems: Problems) -> list[tuple[Path, str]]:
    """The folders that hold class folders, with the part of the official split that each is."""
    try:
        folders = sorted(e.name for e in os.scandir(root) if e.is_dir() and not ignored(e.name))
    except OSError as error:
        raise Mistake(f"dataset.root: {root}: can't be read ({error.strerror}); give this user the right to.") from None
    words = [name for name in folders if name.lower() in SPLIT_FOLDERS]
    if not any(name.lower() == "train" for name in words) or len(words) < 2 and len(folders) > 1:
        return [(root, "")]
    others = [name for name in folders if name not in words]
    if others:
        listed = ", ".join(f'"{name}"' for name in others[:10])
        sentence = f"the dataset's root: expected either train, validation and test or classes, found {listed} beside "
        problems.add("folders beside an official split", f"{sentence}{', '.join(words)}; move one or the other.")
    parts = [(root / name, SPLIT_FOLDERS[name.lower()]) for name in words]
    for part in ("train", "validation", "test"):
        same = [folder.name for folder, other in parts if other == part]
        if len(same) > 1:
            sentence = f"the dataset's root: {' and '.join(same)} all mean the {part} part; keep one of them."
            problems.add("repeated parts", sentence)
    return parts


def _class_folders(root: Path, folder: Path, problems: Problems) -> list[Path]:
    found = []
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        relative = (folder / entry.name).relative_to(root).as_posix()
        if ignored(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            found.append(folder / entry.name)
        elif entry.is_dir():
            problems.add("links to folders", f"{relative}: a link to a folder; expected the folder itself.")
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            problems.add(
                "images outside of a class", f"{relative}: an image outside of any class folder; move it into one."
            )
    return found


def _images(root: Path, folder: Path, safe: Root, problems: Problems) -> list[str]:
    found: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        relative = (folder / entry.name).relative_to(root).as_posix()
        if ignored(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            found += _images(root, folder / entry.name, safe, problems)
        elif entry.is_dir():
            problems.add("links to folders", f"{relative}: a link to a folder; expected the folder itself.")
        elif Path(entry.name).suffix.lower() not in SUFFIXES:
            sentence = (
                f"{relative}: not an image (expected {', '.join(sorted(SUFFIXES))}); move it out of the class folder."
            )
            problems.add("files that aren't images", sentence)
        elif problem := safe.problem(relative):
            problems.add("images that can't be used", f"{printable(relative)}: {problem}.")
        else:
            found.append(relative)
    return found


def _groups(paths: list[str], expression: str | None, problems: Problems) -> list[str] | None:
    if expression is None:
        return None
    groups: list[str] = []
    for path in paths:
        match = re.search(expression, path)
        if match is None or not match["group"]:
            problems.add(
                "paths without a group",
                f"{path}: the expression dataset.options.groups finds no group in it; correct it.",
            )
        else:
            groups.append(match["group"])
    return groups
