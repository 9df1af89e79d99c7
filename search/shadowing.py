"""Whether a node would import our packages, or something else of their names that comes first there.

What looks needs nothing of ours: it travels as it is to a node and uses Python's own library alone, since what is ours
may be the very thing that can't be imported there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Found = dict[str, tuple[str, str]]
"""By package: the place that it would be imported from, and SHA-256 of the sources there; empty where there is none."""


def finder() -> Callable[[Sequence[str]], Found]:
    """A function that finds packages where it runs. Made anew in a function, it is pickled whole instead of by name."""

    def find(packages: Sequence[str]) -> Found:
        import hashlib
        import importlib.util
        from pathlib import Path

        found = {}
        for package in packages:
            spec = importlib.util.find_spec(package)
            folders = list(spec.submodule_search_locations or []) if spec else []
            place = Path(folders[0]) if folders else Path(spec.origin) if spec and spec.origin else None
            if place is None:
                found[package] = ("", "")
                continue
            files = [*place.rglob("*.py"), *place.rglob("*.yaml")] if place.is_dir() else [place]
            total = hashlib.sha256()
            for file in sorted(files):
                total.update(str(file.relative_to(place)).encode() + b"\0" + file.read_bytes() + b"\0")
            found[package] = (str(place), total.hexdigest())
        return found

    return find


def shadowed(node: str, there: Found, here: Found) -> list[str]:
    """What a node would import instead of what this process has, in sentences that name both places."""
    sentences = []
    for package, (mine, digest) in here.items():
        place, found = there[package]
        if found == digest:
            continue
        told = f"something else, in {place}" if place else "nothing"
        sentences.append(
            f'cluster: {node} would import as "{package}" {told}; this process has it from {mine}. Take what is there '
            "off that node's PYTHONPATH and Python's own search path, or give it another name."
        )
    return sentences
