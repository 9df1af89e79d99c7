"""More trials and a wider space for a search: what was tried stays, and is learned from."""

import re
import shutil
from pathlib import Path

import pytest

from search.extension import extend
from search.folder import SearchFolder
from search.plan import plan
from search.record import State
from search.report import report
from search.sampler import Sampler
from search.study import Study, only_writer, open_storage
from spaces.mistakes import Mistake
from tests.search.conftest import write_digits
from tests.search.test_report import make

WIDER = "space.head_lr={float: [1.0e-6, 1.0], log: true}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extension")
    write_digits(folder / "secret-folder", 150)
    return folder


@pytest.fixture(scope="module")
def original(data: Path) -> SearchFolder:
    """A search of 14 trials."""
    return make(data, 14, name="found")


@pytest.fixture
def found(original: SearchFolder, tmp_path: Path) -> SearchFolder:
    shutil.copytree(original.path, tmp_path / "found")
    return SearchFolder(tmp_path / "found")


def test_more_trials_in_a_wider_space(found: SearchFolder, tmp_path: Path) -> None:
    before = found.study().trials
    changed = extend(found, ["budget.trials=40", WIDER, "space.head={choice: [linear, attentive]}"])
    assert any(sentence.startswith("budget.trials: 30 -> 40") for sentence in changed)
    config, study = found.config(), found.study()
    assert config.budget.trials == 40 and study.trials == before
    [entry] = study.identity["extensions"]
    assert entry["trials"] == 14 and entry["changes"]["budget.trials"] == ["30", "40"]
    was, is_now = entry["changes"]["space.head_lr"]
    assert (was, is_now) == ("{float: [0.0001, 0.1], log: true}", "{float: [1e-06, 1.0], log: true}")
    assert f"space.head_lr: {was} -> {is_now}" in changed
    assert entry["changes"]["space.head"] == ["linear", "{choice: [linear, attentive]}"]

    planned = plan(config, found.path, going_on=True)  # as a resume does
    sampler = Sampler(planned.space, planned.direction, config.seed, config.sampler, study.trials)
    writer = Study.open(open_storage(found.path, None), config.name)
    seen = []
    for number in range(14, 24):
        point = sampler.ask(number)
        seen.append(point)
        distributions = sampler.distributions(point)
        writer.add(point, planned.space.keyed(point), distributions, seed=number, job=f"job-{number:05d}", why="tpe")
        writer.end(number, State.COMPLETE, "", 0.5)
        sampler.end(writer.trials[number])
    assert any(point["head"] == "attentive" for point in seen)
    again = found.study().trials
    assert again[:14] == before and [t.point for t in again[14:]] == seen
    text = report([found], tmp_path / "r.md").read_text(encoding="utf-8")
    assert "after 14 trials: " in text and "PED-ANOVA" in text
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["head_lr"].rstrip(" |")[-4:].startswith("0."), "what was widened has an importance all the same"


def test_a_further_backbone(data: Path) -> None:
    found = make(data, 5, name="one", backbones=["mae_tiny"])
    extend(found, ["backbones=[mae_tiny, dinov2_tiny]"])
    identity = found.study().identity
    assert found.config().backbones == ("mae_tiny", "dinov2_tiny")
    assert identity["weights"] == {"mae_tiny": "random", "dinov2_tiny": "random"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("space.head_lr={float: [1.0e-2, 1.0e-1], log: true}", "lie in the new space"),
        ("budget.trials=5", "has 14 trials already"),
        ("backbones=[mae_tiny]", "dinov2_tiny would be left out"),
        ("budget.epochs=9", "budget.epochs: was 4, is 9"),
        ("metric=accuracy", "metric: was"),
        ("seed=3", "seed: was 0, is 3"),
        ("dataset.split.seed=4", "dataset.split.seed: was 0, is 4"),
    ],
)
def test_what_would_change_the_meaning_is_refused(found: SearchFolder, change: str, said: str) -> None:
    before = (found.path / "search.yaml").read_bytes(), found.study().identity
    with pytest.raises(Mistake, match=said):
        extend(found, [change])
    assert before == ((found.path / "search.yaml").read_bytes(), found.study().identity)


def test_the_order_of_backbones_may_change(found: SearchFolder, data: Path, tmp_path: Path) -> None:
    """The sampler and the report put what was tried into the new space; a database alone holds the order."""
    before = found.study().trials
    assert found.config().backbones == ("dinov2_tiny", "mae_tiny")
    extend(found, ["backbones=[mae_tiny, dinov2_tiny]", "budget.trials=40"])
    config, study = found.config(), found.study()
    assert config.backbones == ("mae_tiny", "dinov2_tiny") and study.trials == before
    planned = plan(config, found.path, going_on=True)
    sampler = Sampler(planned.space, planned.direction, config.seed, config.sampler, study.trials)
    writer = Study.open(open_storage(found.path, None), config.name)
    for number in range(14, 18):
        point = sampler.ask(number)
        distributions = sampler.distributions(point)
        writer.add(point, planned.space.keyed(point), distributions, seed=number, job=f"job-{number:05d}", why="tpe")
        writer.end(number, State.COMPLETE, "", 0.5 + number / 100)
        sampler.end(writer.trials[number])
    again = found.study()
    assert [t.point["backbone"] for t in again.trials[:14]] == [t.point["backbone"] for t in before]
    frozen = again.storage.get_all_trials(again.study_id)
    assert [f.params["backbone"] for f in frozen] == [t.point["backbone"] for t in again.trials]
    text = report([found], tmp_path / "r.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["backbone"].rstrip(" |")[-4:].startswith("0."), "its importance, over both orders"


def test_a_backbone_that_is_left_out_is_named(found: SearchFolder) -> None:
    with pytest.raises(Mistake) as caught:
        extend(found, ["backbones=[mae_tiny]"])
    assert str(caught.value) == "extend: backbones: dinov2_tiny would be left out; name the earlier ones too."


def test_mlflow_in_a_database_is_refused(found: SearchFolder) -> None:
    """Though MLflow isn't asked whether it is there when a search goes on."""
    with pytest.raises(Mistake, match="is a database, in which MLflow keeps no files"):
        extend(found, ["mlflow=postgresql://host/db"])


def test_a_crash_between_the_two_writes_is_mended_by_the_same_command(found: SearchFolder) -> None:
    settings = (found.path / "search.yaml").read_bytes()
    extend(found, ["budget.trials=40", WIDER])
    (found.path / "search.yaml").write_bytes(settings)  # the record was written, the settings weren't
    extend(found, ["budget.trials=40", WIDER])
    assert found.config().budget.trials == 40
    assert plan(found.config(), found.path, going_on=True).config.space["head_lr"] == {
        "float": [1e-6, 1.0],
        "log": True,
    }


def test_what_the_settings_had_left_to_the_shipped_space(found: SearchFolder) -> None:
    """What a range was is told though only the shipped space says it; so is what isn't of a range."""
    changed = extend(
        found, ["space.backbone_lr_ratio={float: [1.0e-4, 1.0], log: true}", "space.weight_decay={default: 0.05}"]
    )
    [ratio] = [sentence for sentence in changed if sentence.startswith("space.backbone_lr_ratio: ")]
    earlier = "backbone_lr_ratio@dinov2_tiny, backbone_lr_ratio@mae_tiny"
    assert ratio == f"space.backbone_lr_ratio: only {earlier} -> {{float: [0.0001, 1.0], log: true}}"
    [of_mae] = [sentence for sentence in changed if sentence.startswith("space.backbone_lr_ratio@mae_tiny: ")]
    assert re.fullmatch(r"space.backbone_lr_ratio@mae_tiny: \{float: \[.*\].*\} -> as backbone_lr_ratio", of_mae)
    assert "space.weight_decay: not set -> {default: 0.05}" in changed
    assert found.config().space["weight_decay"] == {"default": 0.05}


def test_refusals_begin_with_what_was_typed(found: SearchFolder) -> None:
    with pytest.raises(Mistake) as caught:
        extend(found, ["metric=accuracy"])
    assert all(sentence.startswith("extend: ") for sentence in caught.value.sentences)


def test_not_while_it_is_run(found: SearchFolder) -> None:
    with only_writer(found.path), pytest.raises(Mistake, match="is being run"):
        extend(found, ["budget.trials=40"])
    with pytest.raises(Mistake, match="nothing is to change"):
        extend(found, [])


def test_a_database_takes_wider_ranges_but_no_further_choices(data: Path, tmp_path: Path) -> None:
    found = make(data, 14, name="stored", study=f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(Mistake, match="the record lies in a database"):
        extend(found, ["backbones=[dinov2_tiny, mae_tiny, mae_base]"])
    with pytest.raises(Mistake, match="can't add values to a choice or change their order"):
        extend(found, ["backbones=[mae_tiny, dinov2_tiny]"])
    extend(found, [WIDER])
    assert found.study().identity["extensions"]
