"""Whatever stands in a table or a path: a sentence for the person, and never a file outside of the dataset's root."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spaces.config import DatasetConfig
from spaces.mistakes import Mistake
from trainables.data.readers import read
from trainables.data.readers.paths import Root

SOME = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PIECES = [
    "..",
    ".",
    "",
    "a",
    "deep",
    "0.png",
    "out",
    "link",
    "inside.png",
    "outside.png",
    "~",
    "/",
    "\\",
    "data",
    "\x00",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    for folder in ("data/a/deep", "out"):
        (home / folder).mkdir(parents=True)
    for file in ("data/0.png", "data/a/0.png", "data/a/deep/0.png", "out/0.png", "0.png"):
        (home / file).write_text("x")
    (home / "data" / "link").symlink_to(home / "out")
    (home / "data" / "a" / "link").symlink_to("deep")
    (home / "data" / "inside.png").symlink_to("a/0.png")
    (home / "data" / "outside.png").symlink_to("../out/0.png")
    yield home / "data"


@SOME
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("/".join) | st.text(max_size=12))
def test_what_may_be_opened_lies_in_the_root(root: Path, path: str) -> None:
    """A path without a problem is a file that really lies under the root, links followed."""
    problem = Root(root).problem(path)
    if problem is None:
        assert (root / path).resolve().is_relative_to(root.resolve()) and (root / path).is_file()
    else:
        assert not problem.endswith(".") and str(root) not in problem


def test_paths_that_are_fine_are_among_them(root: Path) -> None:
    """The property above isn't about refusals alone."""
    fine = ["0.png", "a/deep/0.png", "a/link/0.png", "inside.png", "./0.png"]
    assert [Root(root).problem(path) for path in fine] == [None] * 5
    for path in ("link/0.png", "outside.png", "../0.png", "a/../../0.png", str(root / "0.png")):
        assert Root(root).problem(path) is not None


CELLS = st.sampled_from(["0.png", "a/0.png", "cat", "dog", "", "../0.png", '"', "x\ny", "é", "\x00", " 0.png "])
TABLES = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=6).map("\n".join)
BYTES = st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode)


@SOME
@given(st.booleans(), TABLES.map(str.encode) | BYTES)
def test_any_bytes_are_a_table_or_a_mistake(root: Path, tmp_path: Path, header: bool, data: bytes) -> None:
    """A table of any content is read, or refused in sentences that name it, with a row's number where one is meant."""
    (root / "t.csv").write_bytes((b"path,label\n" if header else b"") + data)
    config = DatasetConfig(reader="csv", root=str(root), options={"table": "t.csv"})
    try:
        manifest = read(config, tmp_path / "cache", None)
    except Mistake as mistake:
        assert all(sentence.startswith("t.csv") and sentence.endswith(".") for sentence in mistake.full), mistake.full
        return
    assert len(manifest) and all(Root(root).problem(path) is None for path in manifest.paths.tolist())
