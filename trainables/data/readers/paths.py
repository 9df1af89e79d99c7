"""Which files of a dataset may be opened: those that lie under its root, links included."""

from __future__ import annotations

from functools import cache
from pathlib import Path, PurePosixPath


class Root:
    """The folder of a dataset, or of other images."""

    def __init__(self, folder: Path, called: str = "the dataset's root") -> None:
        """`called`: what sentences call the folder."""
        self.folder, self.called = folder, called
        self._real = folder.resolve()
        self._real_parent = cache(self._inside)

    def problem(self, relative: str) -> str | None:
        """Why the file can't be used, as a clause that follows its name, or None where it can."""
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts:
            return f"leaves {self.called}; expected a path inside it"
        try:
            relative.encode()
        except UnicodeEncodeError:
            return "has a name that isn't UTF-8; rename it"
        whole = self.folder / path
        if not whole.is_file():
            return f"no such file under {self.called}"
        # The folder's real place is asked once, since there are few of them and many files.
        if not self._real_parent(whole.parent) or (whole.is_symlink() and not self._inside(whole)):
            return f"is a link that leaves {self.called}; copy the file into it"
        return None

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._real)


def ignored(name: str) -> bool:
    """Names that file systems and viewers leave behind: hidden files, thumbnails, what unpacking adds."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx", "@eadir")


def printable(name: str) -> str:
    """A file name that can be printed, whatever bytes it holds."""
    return name.encode("utf-8", "backslashreplace").decode()
