"""What `medtune check` tells before a search."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.check import check, describe, space_table
from search.console import Console
from search.plan import Plan
from spaces.config import SearchConfig
from spaces.library import assemble
from spaces.mistakes import Mistake
from tests.search.conftest import write_digits
from trainables.data.manifest import Manifest
from trainables.data.prepared import Prepared
from trainables.data.units import scored


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_digits(tmp_path / "images", 150)
    return tmp_path


def settings(place: Path, **changes: Any) -> SearchConfig:
    dataset = {"reader": "folder", "root": str(place / "images"), "policy": "digits", **changes.pop("dataset", {})}
    base = {
        "name": "digits",
        "dataset": dataset,
        "backbones": ["dinov2_tiny", "mae_tiny"],
        "weights": "random",
        "storage": str(place / "runs"),
        "mlflow": "off",
        "budget": {"trials": 100, "epochs": 4},
    }
    return SearchConfig.parse({**base, **changes}, "s")


def told(config: SearchConfig, place: Path) -> str:
    stream = io.StringIO()
    check(config, place, Console(stream))
    return stream.getvalue()


def refused(config: SearchConfig, place: Path) -> Mistake:
    with pytest.raises(Mistake) as caught:
        told(config, place)
    return caught.value


def kept(place: Path) -> Path:
    return place / "runs" / "check-digits.txt"


def test_what_can_be_known(place: Path) -> None:
    text = told(settings(place, strategy="compare"), place)
    assert "100 trials (50 for each of 2 backbones)" in text
    assert "train images  train groups  validation images" in text and "units" not in text.split("\n")[2]
    assert "120 grey images: all 8 x 8 pixels" in text
    assert "No image of any part stands there twice" in text
    assert "WARNING: 100 trials would rank noise" in text or "too small to tell" in text
    assert "WARNING: few groups in validation" in text
    assert text.rstrip().endswith("Everything is in order.") and not kept(place).exists()


def test_problems_beyond_ten_are_kept_in_full(place: Path) -> None:
    for index in range(40):
        (place / "images" / "3" / f"broken{index:02d}.png").write_text(f"<html>{index}")
    config = settings(place, dataset={"augmentation": {"upright": False}}, metric="quadratic_weighted_kappa")
    mistake = refused(config, place)
    assert sum("broken" in s for s in mistake.sentences) <= 20 and str(kept(place)) in mistake.sentences[-1]
    broken = [line for line in kept(place).read_text().splitlines() if "broken" in line]
    assert len(set(broken)) == len(broken) == 40, "those of the test too"
    for word in ("a 6 that stands on its head is a 9", "isn't for classes without an order"):
        assert any(word in s for s in mistake.sentences), "settings and images are told together"
    for file in (place / "images" / "3").glob("broken*"):
        file.unlink()
    told(settings(place), place)
    assert not kept(place).exists(), "what an earlier check kept doesn't stay"


def test_tables_and_images_are_told_together(place: Path) -> None:
    (place / "images" / "ten").mkdir()
    cut = next((place / "images" / "7").iterdir())
    cut.write_bytes(cut.read_bytes()[:-30])
    mistake = refused(settings(place), place)
    assert any("ten/: a class folder without images" in s for s in mistake.sentences)
    assert any(cut.name in s for s in mistake.sentences)
    nowhere = refused(settings(place, dataset={"root": str(place / "nowhere")}), place)
    assert len(nowhere.sentences) == 1, "nothing is looked at where the settings are wrong"


def test_copies_with_other_labels(place: Path) -> None:
    for image in [*(place / "images" / "1").iterdir(), *(place / "images" / "5").iterdir()]:
        (place / "images" / "2" / f"copy{image.name}").write_bytes(image.read_bytes())
    text = told(settings(place), place)
    count = int(text.split(" of them are labelled differently")[0].split("\n")[-1])
    assert count > 10 and text.count("/copy") == 10
    assert f"and {count - 10} more" in text and kept(place).read_text().count("/copy") == count


def findings(folds: int) -> Prepared:
    """200 studies of two images each, of 100 patients; half of them for training."""
    generator = np.random.default_rng(0)
    study = np.repeat(np.arange(200), 2)
    labels = (generator.random((200, 2)) < [0.3, 0.5]).astype(np.float32)[study]
    names = study.astype(np.str_)
    manifest = Manifest(
        root=Path("nowhere"), task="multilabel", classes=("Edema", "Fracture"), metric="macro_auroc",
        policy="radiograph", paths=np.array([f"{i}.png" for i in range(400)]),
        contents=np.array([f"{i}" for i in range(400)]), labels=labels, groups=(study // 2).astype(np.str_),
        official=np.array([""] * 400), units=names, combine="max", notes=("40 near-duplicates were grouped.",),
    )  # fmt: skip
    rows, fold = np.arange(400), (np.arange(400) // 4) % 2
    pairs = tuple((rows[fold != k], rows[fold == k]) for k in range(2))
    return Prepared(
        manifest=manifest, train=pairs[0][0], validation=pairs[0][1], folds=pairs[:folds], data_digest="",
        split_digest="", test_digest="", test_counts={"Edema": 8, "Fracture": 0}, test_scored=scored(manifest),
    )  # fmt: skip


def test_ranges_of_what_isnt_offered_arent_listed(place: Path) -> None:
    heads = {"head": {"choice": ["linear", "attentive"]}, "trained_blocks": 0}
    told = [row.split()[0] for row in shown_space(settings(place, space=heads))]
    assert "head_lr" in told and "head_lr@attentive" in told and "head" in told
    assert "head_lr@deit" not in told and "weight_decay" not in told, "no trial is asked these"
    every = [row.split()[0] for row in shown_space(settings(place, backbones=["dinov2_base"]))]
    assert "head_lr@deit" in every and "weight_decay" in every


def shown_space(config: SearchConfig) -> list[str]:
    stream = io.StringIO()
    Console(stream).print(space_table(Plan(config, assemble(config), findings(1), [], 1)))
    return [line for line in stream.getvalue().splitlines()[2:] if line.strip()]


@pytest.mark.parametrize(
    ("third", "parts"),
    [
        ("train", "no validation and no test part"),
        ("test", "no validation part"),
        ("validation", "no test part"),
    ],
)
def test_parts_that_the_datasets_own_split_lacks(place: Path, third: str, parts: str) -> None:
    images = sorted((place / "images").glob("*/*.png"))
    rows = [
        f"{p.parent.name}/{p.name},{p.parent.name},{third if i % 3 == 0 else 'train'}" for i, p in enumerate(images)
    ]
    (place / "images" / "table.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    options = {"table": "table.csv", "split": "split"}
    config = settings(place, dataset={"reader": "csv", "options": options})
    assert f"The dataset's own split has {parts}: taken from its training images" in told(config, place)
    own = {"reader": "csv", "options": options, "split": {"official": False}}
    assert "own split" not in told(settings(place, dataset=own), place)


@pytest.mark.parametrize(("size", "said"), [(100_000, True), (32, False)])
def test_batches_larger_than_the_training_set(place: Path, size: int, said: bool) -> None:
    text = told(settings(place, space={"batch_size": size}), place)
    assert ("batch_size 100000: more than the 96 training images, so that a batch holds all of them" in text) is said


@pytest.mark.parametrize(("folds", "size"), [(1, "100 units of 50 groups)"), (2, "200 units of 100 groups in 2 folds")])
def test_units_findings_and_folds(tmp_path: Path, folds: int, size: str) -> None:
    config = settings(tmp_path, metric="macro_auroc")
    planned = Plan(config, assemble(config), findings(folds), [], 1)
    stream = io.StringIO()
    Console(stream).print(*describe(planned, tmp_path / "check.txt", None))
    text = stream.getvalue()
    assert "train images  train units  train groups" in text and "(200 units) stays sealed" in text
    assert "40 near-duplicates were grouped." in text
    assert f"What validation can show ({size}" in text and "macro_auroc of 0.8 has a standard error of 0.0" in text
