"""`protocol: paper`: what it lays over a search, what it refuses, and that what a search keeps can be read again."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from search.check import check
from search.console import Console
from search.plan import plan
from spaces.backbone import piece
from spaces.config import SearchConfig
from spaces.library import assemble, trial_config
from spaces.mistakes import Mistake
from spaces.policy import policy
from spaces.protocol import SEARCHED, apply, notes, protocol, with_warmup
from spaces.strict import parse_yaml
from tests.search.conftest import write_digits

READERS = ["isic2019", "aptos2019", "chexpert"]


def config(reader: str = "isic2019", **changes: Any) -> SearchConfig:
    dataset = {"reader": reader, "root": "data", **changes.pop("dataset", {})}
    base = {"name": "p", "dataset": dataset, "backbones": ["dinov2_base", "mae_base"], "protocol": "paper"}
    return SearchConfig.parse({**base, **changes}, "s")


def refused(settings: SearchConfig) -> tuple[str, ...]:
    with pytest.raises(Mistake) as caught:
        apply(settings)
    return caught.value.sentences


@pytest.mark.parametrize("reader", READERS)
def test_trials_are_the_papers(reader: str) -> None:
    settings = with_warmup(apply(config(reader)), 50)
    space = assemble(settings)
    assert {d.name for d in space.dimensions} == {"backbone", "head", "trained_blocks"}
    points = list(space.every())
    assert {p["head"] for p in points} == {"linear", "deit"} and "all" in {p["trained_blocks"] for p in points}
    for point in points:
        trial = trial_config(settings, point, metric=str(settings.metric), policy="paper", seed=0)
        assert (trial.head_lr, trial.backbone_lr_ratio, trial.layer_decay) == (1e-4, 1, 1)
        assert (trial.weight_decay, trial.head_weight_decay) == (1e-5, 1e-5)
        assert (trial.batch_size, trial.resolution, trial.epochs, trial.clip) == (64, (224, 224), 100, 1)
        assert (trial.value, trial.schedule, trial.adapter, trial.policy, trial.level) == (
            "best", "constant", "none", "paper", 3,
        )  # fmt: skip
        assert trial.warmup == pytest.approx(0.05 if reader == "aptos2019" else 1000 / (50 * 100))
        off = ("mixup", "label_smoothing", "drop_path", "ema", "focal", "logit_adjustment")
        assert not any(getattr(trial, name) for name in off) and trial.class_weights == "none"
    assert trial.views == 0 and settings.stopping.rule == "off" and settings.dataset.centre * 256 == 224
    assert settings.dataset.options["near_duplicates" if reader != "chexpert" else "views"] in ("ignore", "both")
    if reader == "chexpert":
        assert (trial.uncertain, trial.blank) == ("zeros", "zeros")


def test_augmentation_is_for_every_dataset_alike() -> None:
    ranges = policy("paper").at(3)
    assert ranges.flip and not ranges.upright and ranges.scale == pytest.approx(0.8) and ranges.rotate == 0
    assert (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue) == (0.2, 0.2, 0.1, 0.1)
    assert ranges.colour == 0.8


def test_every_dimension_is_fixed_or_left_to_the_search() -> None:
    known = {key.partition("@")[0] for key in piece("common.yaml")["dimensions"]}
    assert set(protocol("paper").space) | {*SEARCHED, "warmup"} == known


@pytest.mark.parametrize("reader", READERS)
def test_what_a_search_keeps_gives_itself_again(reader: str) -> None:
    once = with_warmup(apply(config(reader, dataset={"split": {"seed": 7}})), 63)
    again = SearchConfig.parse(once.plain(), "kept")
    assert again == once == with_warmup(apply(again), 63)
    assert once.dataset.split.seed == 7
    own = config(reader, protocol="own")
    assert apply(own) is own and with_warmup(own, 1) is own and notes(own) == ()


def test_splits() -> None:
    splits = {reader: apply(config(reader)).dataset.split for reader in READERS}
    assert {reader: s.by for reader, s in splits.items()} == {
        "isic2019": "image", "aptos2019": "image", "chexpert": "order",
    }  # fmt: skip
    assert [(s.validation, s.test, s.rows) for s in splits.values()] == [
        (0.1, 0.1, "all"), (0.15, 0.15, "train"), (0.1, 0.1, "train"),
    ]  # fmt: skip


def test_everything_that_contradicts_it_is_refused_at_once() -> None:
    found = refused(
        config(
            budget={"epochs": 30, "trials": 7},
            metric="accuracy",
            stopping={"rule": "halving"},
            space={
                "head_lr": {"float": [1e-5, 1e-3]},
                "head": "linear",
                "layer_decay@mae": 0.7,
                "mixup": {"choice": [0.0, 0.2]},
                "adapter": "lora",
                "trained_blocks": {"choice": [0, 1]},
            },
            dataset={"policy": "dermoscopy", "options": {"test": "official"}, "split": {"by": "group", "test": 0.2}},
        )
    )
    for what in (
        "budget.epochs: is 30", "metric: is accuracy", "stopping.rule: is halving", "space: head_lr: is",
        "space: layer_decay@mae: ", "space: mixup: is", "space: adapter: is lora", "dataset.policy: is dermoscopy",
        "dataset.options.test: is official", "dataset.split.by: is group", "dataset.split.test: is 0.2",
    ):  # fmt: skip
        assert sum(sentence.startswith(what) for sentence in found) == 1, (what, found)
    assert len(found) == 11 and all("protocol: paper has" in sentence for sentence in found)
    assert "space: head: is attentive, but protocol: paper has linear or deit" in refused(
        config(space={"head": "attentive"})
    )[0]  # fmt: skip


def test_narrower_is_no_contradiction() -> None:
    narrow = apply(config(space={"head": "linear", "trained_blocks": 0, "batch_size": 64}, budget={"epochs": 100}))
    space = assemble(narrow)
    assert space.fixed["head"] == "linear" and {d.name for d in space.dimensions} == {"backbone", "warmup"}
    with pytest.raises(Mistake, match="space: warmup: is 0.1, but protocol: paper has 0.02"):
        with_warmup(apply(config(space={"warmup": 0.1})), 500)
    with pytest.raises(Mistake, match="warms up for 1000 steps, but 100 epochs of these images are 1000"):
        with_warmup(apply(config()), 10)


def test_refused_where_it_means_nothing() -> None:
    [sentence] = refused(config("cbis_ddsm"))
    assert "normal against abnormal" in sentence and "never published" in sentence and "no normal images" in sentence
    [other] = refused(config("csv", dataset={"options": {"table": "t.csv"}}))
    assert "isic2019, aptos2019, chexpert alone, found csv" in other
    with pytest.raises(Mistake, match="for protocol: paper alone"):
        config(protocol="own", dataset={"split": {"by": "image"}})


@pytest.mark.parametrize("reader", READERS)
def test_the_example_of_the_docs(reader: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "paper.md").read_text()
    settings = parse_yaml(page.split("```yaml\n")[1].split("```")[0], "docs")
    settings["dataset"]["reader"] = reader
    space = assemble(with_warmup(apply(SearchConfig.parse(settings, "docs")), 50))
    assert {d.name for d in space.dimensions} == {"backbone", "head", "trained_blocks"}


@pytest.fixture
def fundus(tmp_path: Path) -> Path:
    """Digits 0 to 4 as grades, in the re-upload's layout."""
    write_digits(tmp_path / "all", 400)
    images = [
        path for path in sorted((tmp_path / "all").rglob("*.png"), key=lambda p: p.name) if int(path.parent.name) < 5
    ]
    root = tmp_path / "data"
    parts = (("train_1.csv", "train_images", 0, 140), ("valid.csv", "val_images", 140, 170))
    for table, folder, start, end in (*parts, ("test.csv", "test_images", 170, 200)):
        (root / folder).mkdir(parents=True)
        rows = [["id_code", "diagnosis"]]
        for path in images[start:end]:
            path.rename(root / folder / path.name)
            rows.append([path.stem, path.parent.name])
        with (root / table).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return tmp_path


def test_check_says_whose_protocol_it_is_and_what_is_not_reproduced(fundus: Path) -> None:
    settings = config("aptos2019", weights="random", storage=str(fundus / "runs"), mlflow="off")
    stream = io.StringIO()
    check(settings, fundus, Console(stream))
    text = " ".join(stream.getvalue().split())
    assert "98 training, 21 validation images; the test set (21 images)" in text, "of train_1.csv alone"
    for words in (
        "protocol: paper: splits, labels and training of arXiv 2505.19779",
        "not with the dataset's",
        "first input filter",
        "never .5",
        "nobody is stopped early",
    ):
        assert words in text
    planned = plan(settings, fundus)
    assert planned.space.fixed["warmup"] == pytest.approx(0.05)
    kept = SearchConfig.parse(planned.config.plain(), "kept")
    assert plan(kept, fundus).config == planned.config, "a resumed search is the same"


def test_the_copy_without_the_papers_table_is_refused(fundus: Path) -> None:
    (fundus / "data" / "train_1.csv").rename(fundus / "data" / "train.csv")
    settings = config("aptos2019", weights="random", storage=str(fundus / "runs"), mlflow="off")
    with pytest.raises(Mistake, match=r"dataset\.split\.rows: only the training images"):
        plan(settings, fundus)


def test_another_mistake_says_nothing_of_a_split_that_is_not_the_papers(fundus: Path) -> None:
    """Which copies cross the dataset's own parts doesn't matter where the paper divides train_1.csv alone."""
    grades = [dict(csv.reader((fundus / "data" / name).open())) for name in ("train_1.csv", "test.csv")]
    train, test = (next(code for code, grade in of.items() if grade == "2") for of in grades)
    images = fundus / "data"
    (images / "test_images" / f"{test}.png").write_bytes((images / "train_images" / f"{train}.png").read_bytes())
    settings = config("aptos2019", weights="random", storage=str(fundus / "runs"), mlflow="off", space={"mixup": 0.2})
    for thorough in (False, True):
        with pytest.raises(Mistake) as caught:
            plan(settings, fundus, thorough=thorough)
        [contradiction, *others] = caught.value.sentences
        assert contradiction == "space: mixup: is 0.2, but protocol: paper has 0.0; leave it out."
        assert not any("official split" in sentence for sentence in others)
