"""Which causes tell of storage that isn't there."""

from __future__ import annotations

import pytest

from trainables.outages import outage


@pytest.mark.parametrize(
    ("cause", "what"),
    [
        ("NotADirectoryError: [Errno 20] Not a directory: '/store/00002/epoch-0001'", "no access to"),
        ("OSError: [Errno 116] Stale file handle", "no access to"),
        ("RuntimeError: unable to write: No space left on device", "no room for"),
        ("OSError: [Errno 122] Disk quota exceeded", "no room for"),
        ("OSError: [Errno 24] Too many open files: '/store/00002/influence.npy'", None),
        ("the loss was nan at step 2", None),
        ("ConnectionRefusedError: [Errno 111] Connection refused", None),
    ],
)
def test_what_an_outage_is(cause: str, what: str | None) -> None:
    assert outage(cause) == what
