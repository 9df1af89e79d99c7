"""Where a command's result is to go: refused before anything is computed, where nothing can be written there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from spaces.mistakes import Mistake

HEAD = 1 << 16  # bytes of a file that tell its kind


def check_file(command: str, output: Path) -> None:
    """That a result can be written to a file, whole: its folder is there and takes files.

    Raises:
        Mistake: it can't.
    """
    where = f"{command}: -o {output}"
    if output.is_dir():
        raise Mistake(f"{where}: is a folder; name a file in it.")
    if output.exists() and not output.is_file():
        raise Mistake(f"{where}: is a device or a pipe, expected a file; name another one.")
    if not output.absolute().parent.is_dir():
        raise Mistake(f"{where}: there is no folder {output.parent}; make it first.")
    if reason := unwritable(output.absolute().parent):
        raise Mistake(f"{where}: can't be written ({reason}); name a file in another folder.")


def refuse_replacing(command: str, output: Path, kind: str, mark: re.Pattern[str], inputs: Iterable[Path] = ()) -> None:
    """That what may lie in a result's place is an earlier result of its kind: nothing else is replaced.

    Args:
        kind: as a sentence names it, such as `report of medtune`.
        mark: found in the beginning of each of its kind.
        inputs: what is going to be read.

    Raises:
        Mistake: it is something else, or one of the inputs.
    """
    if not output.is_file():
        return
    where = f"{command}: -o {output}"
    if any(one.exists() and one.samefile(output) for one in inputs):
        raise Mistake(f"{where}: is to be read, and would be replaced; name another file.")
    with output.open("rb") as file:
        head = file.read(HEAD).decode("utf-8", "replace")
    if head.strip() and not mark.search(head):
        raise Mistake(f"{where}: is there already, and no {kind}; name another file, or move that one away.")


def check_folder(where: str, output: Path) -> None:
    """That results can be written into a folder, which may be made for them.

    Args:
        where: what stands before the folder: the command, and the option where the person named it (`demo: -o`).

    Raises:
        Mistake: they can't.
    """
    if output.exists() and not output.is_dir():
        raise Mistake(f"{where} {output}: is a file, expected a folder; name another one.")
    if reason := unwritable(output.absolute()):
        raise Mistake(f"{where} {output}: can't be written to ({reason}); name another folder.")


def unwritable(folder: Path) -> str | None:
    """Why files can't be made in a folder, or None where they can; what wasn't there before isn't there after."""
    missing = []
    for above in (folder, *folder.parents):
        if above.exists():
            break
        missing.append(above)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror
    finally:
        for made in missing:
            if made.is_dir() and not any(made.iterdir()):
                made.rmdir()
