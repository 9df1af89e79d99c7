"""The benchmark of a search: its lists, its arithmetic, and that all sides train the same network."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.search import images, plain, strong
from benchmarks.search.inside import Costs
from benchmarks.search.kept import Kept, OutOfTime
from benchmarks.search.ours import ListSampler, Stopwatch, settings
from benchmarks.search.outcome import Done, Outcome, agreement
from benchmarks.search.regimes import REGIMES, Recorded, Regime, ceiling, recorded, scaled, stratum, tenth
from benchmarks.search.replay import Order
from benchmarks.search.replayed import _ratios, _reached, _wanted
from benchmarks.search.setting import Setting
from search.record import Trial
from search.scheduler import Driver
from search.study import Study, open_storage
from spaces.library import assemble
from trainables.backbones import build

ROOT = Path(__file__).parents[1]
BY_NAME = {regime.name: regime for regime in REGIMES}
COUNT, RESOLUTION, EPOCHS = 80, 28, 2


def of(regime: str, trials: int) -> list[Recorded]:
    return recorded(BY_NAME[regime], trials)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    home = tmp_path_factory.mktemp("search")
    images.write("digits", home / "images", COUNT)
    images.write_weights("dinov2_tiny", RESOLUTION, home / "weights.safetensors")
    return Setting(str(home / "images"), "digits", "dinov2_tiny", str(home / "weights.safetensors"), RESOLUTION, EPOCHS)


def test_lists_are_the_same_every_time_and_each_regime_has_its_own() -> None:
    assert of("mix", 20) == of("mix", 20) and [t.seed for t in of("mix", 20)] == list(range(20))
    assert {stratum(t) for t in of("mix", 20)} == {"0", "1", "2", "4", "all"}
    assert of("head-one-view", 4)[0].head_lr != of("head-fresh-views", 4)[0].head_lr


@pytest.mark.parametrize(("regime", "trials", "expected"), [("mix", 20, 5), ("head-one-view", 50, 5), ("mix", 100, 10)])
def test_a_tenth_has_every_stratum(regime: str, trials: int, expected: int) -> None:
    whole = of(regime, trials)
    part = tenth(whole, 2)
    assert len(part) == expected and [t.seed for t in part] == sorted({t.seed for t in part})
    assert {stratum(t) for t in part} == {stratum(t) for t in whole} and set(part) <= set(whole)


def test_time_is_scaled_by_stratum() -> None:
    whole = of("mix", 20)  # four of each of five
    part = tenth(whole, 2)
    assert scaled(whole, whole, [3.0] * 20, 2) == pytest.approx(30)
    assert scaled(whole, part, [8.0 if t.trained_blocks == "all" else 1.0 for t in part], 2) == pytest.approx(24)


def test_a_trial_is_charged_the_slot_that_waited_for_it() -> None:
    first, second, third = of("mix", 3)
    outcome = Outcome("plain", [Done(first, [1.0], 10, 20), Done(second, [1.0], 11, 31), Done(third, [1.0], 27, 40)])
    outcome.began, outcome.wall = 4.0, 38.0
    assert outcome.slot_seconds(2) == [10, 21, 20]  # the second began late, the third's slot was empty since 20
    assert outcome.before() == 6 and outcome.around() == 8
    outcome.building, outcome.beforehand = 7.0, 2.5
    assert outcome.idle() == 5.5, "what was built before the first trial is no idle time"


def test_a_trial_of_fewer_epochs_is_extended_by_its_median_epoch() -> None:
    first, second = of("mix", 2)
    outcome = Outcome("plain", [Done(first, [1.0] * 3, 0, 20, [10, 14, 20]), Done(second, [1.0] * 3, 0, 9, [3, 6, 9])])
    assert outcome.epochs == 3 and outcome.extended(2, 10) == [20 + 7 * 5, 9 + 7 * 3]
    assert outcome.extended(2, 3) == outcome.slot_seconds(2) == [20, 9]


def test_the_median_epoch_leaves_first_ones_out() -> None:
    done = Done(of("mix", 1)[0], [1.0] * 4, 0, 40, [22.0, 24.0, 38.0, 40.0])  # the third waited for a view
    assert Outcome("ours", [done]).epoch() == 2


def test_a_run_that_is_kept_is_not_run_again(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Order] = []

    def run(order: Order) -> Outcome:
        ran.append(order)
        return Outcome(order.side, [Done(trial, [1.0], 0, 1) for trial in order.trials], wall=2.0)

    monkeypatch.setattr("benchmarks.search.kept.run", run)
    order = Order("ours", setting, 2, tuple(of("mix", 3)))
    first, load = Kept(tmp_path).run(order, "mix-0")
    assert (first, load) == Kept(tmp_path, minutes=-1).run(order, "mix-0") and first.wall == 2.0 and len(ran) == 1
    other = dataclasses.replace(order, trials=order.trials[:2])
    with pytest.raises(OutOfTime):
        Kept(tmp_path, minutes=-1).run(other, "mix-0")
    Kept(tmp_path).run(other, "mix-0")
    assert ran == [order, other]


@pytest.mark.parametrize(
    "edited", ["spaces/common.yaml", "trainables/loop.py", "search/launch.py", "benchmarks/search/ours.py"]
)
def test_a_run_of_other_code_is_not_taken_for_one_of_this(
    edited: str, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what computes trials, of what drives them, and of the benchmark itself."""
    order, read = Order("ours", setting, 2, tuple(of("mix", 1))), Path.read_bytes
    monkeypatch.setattr("benchmarks.search.kept.run", lambda _: Outcome("ours", [Done(order.trials[0], [1.0], 0, 1)]))
    Kept(tmp_path).run(order, "mix-0")

    def with_edit(file: Path) -> bytes:
        return read(file) + (b"#" if file.as_posix().endswith(f"/{edited}") else b"")

    monkeypatch.setattr(Path, "read_bytes", with_edit)
    with pytest.raises(OutOfTime):
        Kept(tmp_path, minutes=-1).run(order, "mix-0")
    monkeypatch.setattr(Path, "read_bytes", read)
    Kept(tmp_path, minutes=-1).run(order, "mix-0")


def test_slots_are_those_of_the_scarcer_device(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    of_two = dataclasses.replace(setting, cpus=2)
    assert (setting.slots(16), of_two.slots(16), of_two.held(16)) == (16, 8, 16)
    halves = dataclasses.replace(setting, cpus=4, accelerators=0.5)
    assert (halves.slots(16), halves.held(16), halves.slots(8)) == (4, 2, 2)


def test_images_of_several_passes_are_added_up() -> None:
    """However far the first call of a pass is; where one was cut off, too."""
    watch = Stopwatch()
    with watch.working("looking at the data") as progress:
        for done, total in ((5, 5), (16, 40), (32, 40), (40, 40), (40, 40), (16, 20), (20, 20), (16, 20), (16, 20)):
            progress(done, total)
    assert watch.decoded == 5 + 40 + 40 + 20 + 16 + 16
    with watch.working("looking at the data") as progress:
        progress(20, 20)
    with watch.working("reading weights", of="files") as progress:
        progress(3, 3)
    assert watch.decoded == 137 + 20


def test_a_target_that_is_missed_is_marked() -> None:
    one = {"ratios": {"strong": {"wall": (13.0, 12.0, 14.0), "epoch": (4.9, 4.9, 4.9)}}}
    assert _wanted("strong", 20, None, _reached(one, "strong")) == "strong 20 or more: missed"
    assert _wanted("epoch", 3.97, 5.37, _reached(one, "epoch")) == "epoch 3.97 to 5.37"
    assert _wanted("plain", 50, None, _reached(one, "plain")) == "plain 50 or more", "not measured"


def test_a_side_that_ran_less_often_counts_by_its_median() -> None:
    assert _ratios([6.0, 8.0], [2.0, 4.0]) == (2.5, 2.0, 3.0)
    assert _ratios([6.0], [2.0, 3.0, 1.0]) == (3.0, 2.0, 6.0)


def test_values_of_the_same_trials_are_compared() -> None:
    a, b, c = of("mix", 3)
    one = Outcome("ours", [Done(a, [0.0, 0.4, 0.5, 0.6], 0, 1), Done(b, [0.5], 0, 1), Done(c, [0.9], 0, 1)])
    other = Outcome("plain", [Done(b, [0.7], 0, 1), Done(a, [0.5], 0, 1)])
    assert agreement(one, other) == pytest.approx({"trials": 2, "mean": 0.1, "largest": 0.2})


def test_the_ceiling_counts_block_passes() -> None:
    assert ceiling(of("control", 8), 10, 12, 70, 20) == 1, "nothing is frozen"
    last = ceiling(of("last-1", 1000), 1, 12, 100, 0)
    assert last == pytest.approx((12 + 2) / 3, rel=0.01), "of many trials, building is nothing"
    heads = [dataclasses.replace(t, level=0) for t in of("head-one-view", 50)]
    assert ceiling(heads, 10, 12, 70, 20) == pytest.approx(50 * 10)
    assert ceiling(of("head-fresh-views", 50), 10, 12, 70, 0) == pytest.approx(50), "a view for each epoch"


def test_every_class_is_in_every_part_and_no_image_twice(tmp_path: Path) -> None:
    for kind, classes in (("digits", 10), ("jpegs", 4)):
        images.write(kind, tmp_path / kind, 44 if kind == "jpegs" else 120)
        for part in ("train", "validation", "test"):
            assert len(list((tmp_path / kind / part).iterdir())) == classes
    files = [path.read_bytes() for path in (tmp_path / "digits").glob("*/*/*")]
    assert len(set(files)) == len(files) == 120
    with Image.open(next((tmp_path / "jpegs").glob("train/*/*"))) as image:
        assert image.size == (1024, 1024) and image.format == "JPEG"


def test_all_sides_have_the_same_backbone(setting: Setting) -> None:
    ours = build(setting.backbone, weights=setting.weights, resolution=(RESOLUTION, RESOLUTION)).eval()
    of_plain = timm.create_model(
        str(ours.spec.timm), pretrained=True, pretrained_cfg_overlay={"file": setting.weights}, num_classes=3,
        img_size=RESOLUTION, **ours.spec.build,
    ).eval()  # fmt: skip
    of_strong: Any = strong._model(setting, 3).eval()
    pixels = torch.rand(4, 3, RESOLUTION, RESOLUTION)
    with torch.no_grad():
        pooled = ours.suffix(ours.prefix(pixels, 0), 0).pooled
        for model in (of_plain, of_strong):
            theirs = model.forward_head(model.forward_features(pixels), pre_logits=True)
            assert torch.allclose(theirs, pooled, atol=1e-5)
    assert pooled.std(dim=0).mean() > 0.01, "images differ in what they give"


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("side", ["plain", "strong"])
def test_a_baseline_trains_what_it_is_told_to(setting: Setting, tmp_path: Path, side: str, level: int) -> None:
    told: list[dict[str, Any]] = []
    models: list[nn.Module] = []
    kept = torch.get_num_threads()

    def report(figures: dict[str, Any], model: nn.Module | None) -> None:
        told.append(figures)
        models.extend([model] if model is not None else [])

    trial = dataclasses.replace(of("last-1", 1)[0], level=level, batch_size=16)
    run: Callable[..., None] = plain.fine_tune
    if side == "strong":
        (tmp_path / "resized").mkdir()
        assert strong.resize_all(setting, level, tmp_path / "resized", 1) == _images(setting, "train", "validation")
        run = partial(strong.fine_tune, resized=str(tmp_path / "resized"))
    try:
        run(trial, setting, report=report)
    finally:
        torch.set_num_threads(kept)
    assert [figures["epoch"] for figures in told] == [1, 2] and all(0 <= f["value"] <= 1 for f in told)
    steps = EPOCHS * (_images(setting, "train") // 16)
    assert told[-1]["computed"] == 16 * steps
    assert told[-1]["decoded"] == (16 * steps + EPOCHS * _images(setting, "validation") if side == "plain" else 0)
    before = strong._weights(setting.weights)
    after: dict[str, Tensor] = models[0].state_dict()
    changed = {key.split(".")[0] + key.split(".")[1] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"blocks1", "normweight", "normbias"}


def _images(setting: Setting, *parts: str) -> int:
    return sum(len(list((Path(setting.images) / part).glob("*/*"))) for part in parts)


def test_the_replay_gives_every_trial_once_and_heads_together(setting: Setting, tmp_path: Path) -> None:
    regime = Regime("some", "digits", (0, 1), 10, 0, {})
    trials = recorded(regime, 10)
    config = settings("ours", setting, 10, (0, 1), 0, tmp_path)
    storage = open_storage(tmp_path, None)
    Study.create(storage, "ours", "maximize", {})
    study = Study.open(storage, "ours")
    sampler = ListSampler(trials, config, assemble(config), "maximize", ())

    def order(job: list[Trial]) -> dict[str, Any]:
        return {"points": [trial.point for trial in job]}

    driver = Driver(config, "maximize", study, sampler, [], order, group=3)
    jobs = []
    while (job := driver.next_job()) is not None:
        jobs.append([(p["seed"], p["trained_blocks"], p["head_lr"]) for p in job["points"]])
    assert [[seed for seed, _, _ in job] for job in jobs] == [[0, 2, 4], [1], [3], [5], [6, 8], [7], [9]]
    given = sorted(point for job in jobs for point in job)
    assert given == [(t.seed, t.trained_blocks, t.head_lr) for t in trials]


def test_a_list_is_put_together_from_what_was_measured() -> None:
    assert Costs(10.0, 5.0, 1.0).whole(8) == 10 + 5 + 7
    assert Costs(10.0, 5.0, 2.0, together=4).whole(50) == 10 + 5 + 12 * 2, "the last pass isn't full"


@pytest.mark.slow
def test_the_inside_runs(tmp_path: Path) -> None:
    """On tiny networks the gain isn't what it is on large ones; that all sides run and are compared is."""
    command = [sys.executable, "-m", "benchmarks.search.inside", "--backbone", "dinov2_tiny", "--images", "80"]
    command += ["--repeats", "1", "--regime", "head-one-view", "last-1", "control", "--json", str(tmp_path / "found")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {one["regime"]: one for one in json.loads((tmp_path / "found").read_text())}
    assert set(found) == {"head-one-view", "last-1", "control"}
    assert all(one["ratios"][side]["whole"][0] > 0 for one in found.values() for side in ("plain", "strong"))
    assert found["head-one-view"]["ratios"]["plain"]["whole"][0] > 5


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.search",
        "--tiny",
        "--trials",
        "8",
        "--repeats",
        "1",
        "--regime",
        "mix",
    ]
    done = subprocess.run(
        [*command, "--json", tmp_path / "found.json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["regimes"][0]
    assert found["agreement"]["ours and uncached"]["largest"] < 1e-6
    assert found["counts"]["ours"]["computed"] < found["counts"]["uncached"]["computed"]
    assert found["counts"]["ours"]["decoded"] < found["counts"]["plain"]["decoded"]
    assert all(math.isfinite(value) and value > 0 for side in found["ratios"].values() for value in side["wall"])
