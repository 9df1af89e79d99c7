"""The readers of datasets by name, and `read`, which gives the manifest of what the settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaces.config import DatasetConfig
from spaces.mistakes import Mistake, nearest
from spaces.strict import Strict
from trainables.data.manifest import Manifest
from trainables.data.readers import aptos2019, cbis_ddsm, chexpert, csv, folder, isic2019
from trainables.data.readers.own import is_own, own_reader


@dataclass(frozen=True)
class Reader:
    """One kind of dataset. `read` is given the root, an instance of `options`, and the folder of caches."""

    options: type[Strict]
    read: Callable[[Path, Any, Path], Manifest]


READERS: dict[str, Reader] = {
    "folder": Reader(folder.Options, folder.read),
    "csv": Reader(csv.Options, csv.read),
    "aptos2019": Reader(aptos2019.Options, aptos2019.read),
    "cbis_ddsm": Reader(cbis_ddsm.Options, cbis_ddsm.read),
    "isic2019": Reader(isic2019.Options, isic2019.read),
    "chexpert": Reader(chexpert.Options, chexpert.read),
}


def read(config: DatasetConfig, cache: Path, base: Path | None) -> Manifest:
    """Reads a dataset's tables and lists its images; none is decoded but to find near-duplicates, once.

    Args:
        config: says which reader, where, and the reader's options.
        cache: folder that remembers hashes of contents.
        base: what a relative root is relative to; None is the working folder.

    Raises:
        Mistake: unknown reader or options, no such root, and all that the reader finds wrong.
    """
    problems: list[str] = []
    reader = READERS.get(config.reader)
    if is_own(config.reader):
        try:
            reader = own_reader(config.reader, Reader)
        except Mistake as mistake:
            problems += mistake.sentences
    elif reader is None:
        problems.append(f'dataset.reader: unknown reader "{config.reader}".{nearest(config.reader, READERS)}')
    root = (base or Path.cwd()) / Path(config.root).expanduser()
    if not root.exists():
        problems.append(
            f"dataset.root: {root}: no such folder; write the dataset's, or give --set dataset.root=FOLDER."
        )
    elif not root.is_dir():
        problems.append(f"dataset.root: {root}: expected a folder, found a file.")
    options: Strict | None = None
    if reader is not None:
        try:
            options = reader.options.parse(config.options, "dataset.options")
        except Mistake as mistake:
            problems += mistake.sentences
    if reader is None or options is None or problems:
        raise Mistake(*problems)
    try:
        manifest = reader.read(root, options, cache)
        manifest.check_units()
    except ValueError as error:  # a manifest that contradicts itself
        if is_own(config.reader):
            raise Mistake(
                f'dataset.reader: "{config.reader}" gives no usable manifest: {error}; see docs/extending.md.'
            ) from error
        raise
    return manifest
