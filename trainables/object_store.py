"""Checkpoints in an object store (S3, Google Cloud Storage, Azure, HDFS: what pyarrow's file systems know), where the
shared folder would be too small or too slow for them.

In a trial's folder then lies, in place of the folder `checkpoints`, a file of that name with the address of its place
there. A checkpoint's folder is one prefix; its last file, without which it doesn't count, is written last and removed
first, since an object store has no rename. Credentials are the machine's own (environment, role), never in an address.
"""

from __future__ import annotations

import secrets
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from trainables.files import write_text

LARGEST_ADDRESS = 4096  # bytes


def link(place: Path, address: str) -> None:
    """Lets what is kept at `place` lie at an address, unless it lies at `place` already or at another address."""
    if not place.exists():
        write_text(place, address + "\n")


def linked(place: Path) -> ObjectFolder | None:
    """Where what is kept at `place` lies; None where it is in a folder there."""
    return ObjectFolder(place.read_text(encoding="utf-8")[:LARGEST_ADDRESS].strip()) if place.is_file() else None


def below(address: str, place: str) -> str:
    """The address of a place under another address, whose options (`?region=...`) it keeps."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{place}"))


class ObjectFolder:
    """A prefix of an object store, as a folder of folders that hold a few files each."""

    def __init__(self, address: str) -> None:
        """
        Raises:
            ValueError: pyarrow knows no such address, when it is first used.
        """
        self.address = address

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from pyarrow import fs

        return fs.FileSystem.from_uri(self.address)

    def names(self, last: str) -> list[str]:
        """Folders that are whole: those that have the file `last`."""
        from pyarrow import fs

        system, root = self._place
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
        paths = [Path(one.path) for one in found if one.type == fs.FileType.File]
        return sorted({path.parent.name for path in paths if path.name == last})

    def put(self, folder: Path, name: str, last: str) -> None:
        """Writes the files of a local folder under a name, `last` last; what was there is replaced."""
        system, root = self._place
        self.remove(name, last)
        system.create_dir(f"{root}/{name}")
        for file in sorted(folder.iterdir(), key=lambda one: one.name == last):
            with file.open("rb") as source, system.open_output_stream(f"{root}/{name}/{file.name}") as sink:
                while data := source.read(8 << 20):
                    sink.write(data)

    def get(self, name: str, folder: Path) -> None:
        """Copies the files of a folder into a local one, which is made."""
        from pyarrow import fs

        system, root = self._place
        folder.mkdir(parents=True)
        for one in system.get_file_info(fs.FileSelector(f"{root}/{name}")):
            if one.type == fs.FileType.File:
                with system.open_input_stream(one.path) as source, (folder / Path(one.path).name).open("wb") as sink:
                    while data := source.read(8 << 20):
                        sink.write(data)

    def remove(self, name: str, last: str) -> None:
        """Removes a folder, `last` first; nothing where there is none."""
        from pyarrow import fs

        system, root = self._place
        files = system.get_file_info(fs.FileSelector(f"{root}/{name}", allow_not_found=True))
        for one in sorted(files, key=lambda one: Path(one.path).name != last):
            system.delete_file(one.path)
        if system.get_file_info(f"{root}/{name}").type == fs.FileType.Directory:
            system.delete_dir(f"{root}/{name}")

    def size(self) -> int:
        """Bytes of all files."""
        from pyarrow import fs

        system, root = self._place
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
        return sum(one.size or 0 for one in found if one.type == fs.FileType.File)

    def empty(self) -> None:
        """Removes all that is there."""
        from pyarrow import fs

        system, root = self._place
        if system.get_file_info(root).type == fs.FileType.Directory:
            system.delete_dir(root)

    def refused(self) -> str:
        """Why nothing can be written, read and removed there, as one line; empty where it can."""
        name = f".mark-{secrets.token_hex(6)}"
        try:
            system, root = self._place
            system.create_dir(root)
            with system.open_output_stream(f"{root}/{name}") as sink:
                sink.write(name.encode())
            with system.open_input_stream(f"{root}/{name}") as source:
                found = source.read()
            system.delete_file(f"{root}/{name}")
        except (OSError, ValueError, NotImplementedError, ImportError) as error:
            return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        return "" if found == name.encode() else "what is read isn't what was written"
