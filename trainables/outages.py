"""Errors that come of where files lie, not of a trial's configuration: other trials there would meet them, too."""

from __future__ import annotations

import errno
import os
import re

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
AWAY = frozenset(
    getattr(errno, name)
    for name in (
        "EACCES", "EHOSTDOWN", "EIO", "ENODEV", "ENOENT", "ENOTCONN", "ENOTDIR", "ENXIO", "EPERM", "EREMOTEIO", "EROFS",
        "ESTALE", "ETIMEDOUT",
    )
)  # fmt: skip
"""What a folder's file system answers that isn't there any more, or not as it was: unmounted, replaced, taken away."""
NUMBER = re.compile(r"\[Errno (\d+)\]")


def outage(cause: str) -> str | None:
    """What the storage did, where a trial's cause (or the error of its process) tells of it; None where it doesn't."""
    if any(os.strerror(number) in cause for number in NO_ROOM):  # not everybody gives the number
        return "no room for"
    if any(int(number) in AWAY for number in NUMBER.findall(cause)):
        return "no access to"
    return None
