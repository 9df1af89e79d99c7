"""Digests of the source code that computes: what other code has computed is known as such."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

DECODERS = ("pillow", "pydicom", "python-gdcm", "scipy")
"""Packages that pixels come from as well (trainables.data.pixels): others may round them otherwise."""


def sources_digest(names: Iterable[str]) -> str:
    """SHA-256 of the sources of packages and modules, by their dotted names.

    Raises:
        ValueError: as `sources`.
    """
    total = hashlib.sha256()
    for name in names:
        root, files = sources(name)
        for file in files:
            total.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()


def sources(name: str) -> tuple[Path, list[Path]]:
    """The folder of a package or a module, and its Python and YAML files, as this process would import them.

    Raises:
        ValueError: there is no source of that name.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"sources: there is no package or module {name}")
    file = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return file.parent, [file]
    return file.parent, sorted((*file.parent.rglob("*.py"), *file.parent.rglob("*.yaml")))
