"""What docs/extending.md shows works as it stands there."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spaces.config import DatasetConfig, SearchConfig
from spaces.library import assemble
from spaces.mistakes import Mistake
from spaces.strict import parse_yaml
from tests.search.conftest import write_digits
from trainables.data.prepared import prepare
from trainables.data.readers import read

DOCS = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", DOCS, re.DOTALL) for kind in ("yaml", "python")}


def block(containing: str) -> Any:
    [found] = [text for text in BLOCKS["yaml"] if containing in text]
    return parse_yaml(found, "docs/extending.md")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The docs' reader in a folder of the import path; gives its file."""
    source, _ = BLOCKS["python"]
    file = tmp_path / source.splitlines()[0].removeprefix("# ")
    file.parent.mkdir()
    file.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    for name in [name for name in sys.modules if name.split(".")[0] == "my_readers"]:
        del sys.modules[name]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of each of 20 patients."""
    folder = tmp_path / "data"
    folder.mkdir()
    for patient in range(20):
        name = ("benign", "malignant")[patient % 2]
        for view in range(2):
            Image.new("L", (8, 8), patient * 10 + view).save(folder / f"patient{patient}_{name}_{view}.png")
    return folder


def test_a_reader_of_ones_own(reader: Path, images: Path, tmp_path: Path) -> None:
    config = DatasetConfig(**block("my_readers.skin:reader")["dataset"])
    prepared = prepare(config, tmp_path / "cache", tmp_path)
    manifest = prepared.manifest
    assert manifest.classes == ("benign", "malignant")
    assert len(manifest) + sum(prepared.test_counts.values()) == 40
    train, validation = (set(manifest.groups[rows]) for rows in (prepared.train, prepared.validation))
    assert train and validation and not train & validation
    again = prepare(config, tmp_path / "cache", tmp_path)
    assert again.digests == prepared.digests
    tasks = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert "takes fifteen lines of Python" in tasks
    assert len([line for line in reader.read_text().splitlines() if line.strip()]) <= 15, "all, imports included"
    assert max(map(len, BLOCKS["python"][0].splitlines())) <= 120


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_readers.skin:readr", 'has no "readr". Did you mean "reader"?'),
        ("my_readers.skn:reader", "there is no module my_readers.skn; install it, or name its folder in PYTHONPATH"),
        ("nowhere:reader", "there is no module nowhere"),
        ("my_readers.skin:Strict", "expected a trainables.data.readers.Reader, found"),
        ("my_readers/skin.py:reader", "expected package.module:name"),
        ("my_readers.broken:reader", "can't be imported (ZeroDivisionError: division by zero)"),
        ("my_readers.lacking:reader", "imports a_package_that_is_nowhere, which isn't installed"),
        ("my_readers.wrong:reader", "gives no usable manifest: official: expected some of"),
    ],
)
def test_mistakes_with_ones_own_reader(reader: Path, images: Path, tmp_path: Path, name: str, said: str) -> None:
    (reader.parent / "broken.py").write_text("1 / 0\n")
    (reader.parent / "lacking.py").write_text("import a_package_that_is_nowhere\n")
    wrong = reader.read_text().replace("labels=labels,", 'labels=labels, official=np.full(len(paths), "learn"),')
    (reader.parent / "wrong.py").write_text(wrong)
    with pytest.raises(Mistake) as mistake:
        read(DatasetConfig(reader=name, root="data"), tmp_path / "cache", tmp_path)
    assert said in str(mistake.value)


def test_options_of_ones_own_reader_are_strict(reader: Path, images: Path, tmp_path: Path) -> None:
    config = DatasetConfig(reader="my_readers.skin:reader", root="data", options={"suffix": ".png"})
    with pytest.raises(Mistake, match='unknown key "suffix". No keys are known there; leave it out.'):
        read(config, tmp_path / "cache", tmp_path)


def test_a_reader_with_options(reader: Path, images: Path, tmp_path: Path) -> None:
    """The docs' second block in place of the first one's last line."""
    source, options = BLOCKS["python"]
    assert source.splitlines()[-1] == "reader = Reader(Strict, read)" and '"*.png"' in source
    with_options = source.replace("reader = Reader(Strict, read)", options).replace('"*.png"', 'f"*{options.suffix}"')
    reader.write_text(with_options)
    one = next(images.iterdir())
    one.rename(one.with_suffix(".bmp"))
    for suffix, found in ((".png", 39), (".bmp", 1)):
        config = DatasetConfig(reader="my_readers.skin:reader", root="data", options={"suffix": suffix})
        assert len(read(config, tmp_path / "cache", tmp_path)) == found
    with pytest.raises(Mistake, match='unknown key "sufix". Did you mean "suffix"?'):
        read(config.model_copy(update={"options": {"sufix": ".png"}}), tmp_path / "cache", tmp_path)


def test_a_table_in_one_line(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", 60)
    rows = [f"{p.relative_to(tmp_path / 'data')},{p.parent.name},{p.stem}" for p in (tmp_path / "data").rglob("*.png")]
    (tmp_path / "data" / "labels.csv").write_text("\n".join(["path,label,patient", *rows]) + "\n")
    manifest = read(DatasetConfig(**block("reader: csv")["dataset"]), tmp_path / "cache", tmp_path)
    assert len(manifest) == 60 and len(manifest.classes) == 10


def test_a_backbone_and_a_space() -> None:
    settings = {"name": "a", "dataset": {"reader": "folder", "root": "x"}}
    config = SearchConfig.parse({**settings, **block("timm/convnext"), **block("mixup: null")}, "docs")
    space = assemble(config)
    assert set(space.offered("backbone")) == {"dinov2_base", "timm/convnext_tiny.in12k"}
    assert space.offered("batch_size") == (32,) and not space.offered("mixup")
    assert set(space.offered("trained_blocks")) == {0, 2, 4}
