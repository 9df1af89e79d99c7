from __future__ import annotations

import os
from pathlib import Path

from trainables.data.readers.listing import Listing
from trainables.data.readers.paths import Root


def test_says_what_root_says_of_every_kind_of_path(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "a" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "out.png").write_text("x")
    for name in ("0.png", "deep/er/1.JPG", ".hidden.png", "notes.txt"):
        (root / "a" / name).write_text("x")
    (root / "a" / "inside.png").symlink_to("0.png")
    (root / "a" / "outside.png").symlink_to(tmp_path / "out.png")
    (root / "a" / "elsewhere").symlink_to(tmp_path)
    (root / "linked").symlink_to(tmp_path)
    odd = os.fsdecode(b"a/\xff.png")
    (root / odd).write_text("x")
    listing = Listing(root, ["a", "linked", "missing"])
    assert listing.files == {"a/0.png", "a/deep/er/1.JPG", "a/.hidden.png", "a/notes.txt"}
    assert listing.images() == ["a/0.png", "a/deep/er/1.JPG"]
    paths = (
        *listing.files, "a/inside.png", "a/outside.png", "a/elsewhere/out.png", "linked/out.png", "a/none.png",
        "a/../a/0.png", "../out.png", str(tmp_path / "out.png"), "a/deep", odd,
    )  # fmt: skip
    found = {path: listing.problem(path) for path in paths}
    assert found == {path: Root(root).problem(path) for path in paths}
    assert [path for path in paths if found[path] is None] == [*listing.files, "a/inside.png"]


def test_many_folders(tmp_path: Path) -> None:
    for i in range(1100):
        (tmp_path / "a" / f"{i:04d}").mkdir(parents=True)
        (tmp_path / "a" / f"{i:04d}" / "0.png").touch()
    assert Listing(tmp_path, ["a"]).files == {f"a/{i:04d}/0.png" for i in range(1100)}
