"""A person's mistakes, as the command line tells them: a clear sentence, exit code 2, nothing left behind."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from search.cli import main
from search.settings import load
from spaces.mistakes import Mistake
from tests.search.conftest import SETTINGS, medtune, succeed, write_digits
from trainables.data.prepared import prepare_for_audit

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture
def place(tmp_path: Path, digits: Path) -> Path:
    """A folder with images of its own to spoil, and settings."""
    shutil.copytree(digits / "images", tmp_path / "images")
    (tmp_path / "search.yaml").write_text(SETTINGS.replace("STORAGE", str(tmp_path / "runs")))
    return tmp_path


def typo(place: Path) -> list[str]:
    return ["--set", "bugdet.trials=3"]


def missing_folder(place: Path) -> list[str]:
    return ["--set", "dataset.root=nowhere"]


def empty_class(place: Path) -> list[str]:
    (place / "images" / "ten").mkdir()
    return []


def unreadable_image(place: Path) -> list[str]:
    """One that the test takes, of which no trial sees anything."""
    dataset = load(place / "search.yaml").dataset
    for number in range(100):
        broken = place / "images" / "3" / f"broken{number}.png"
        broken.write_text(f"<html>not found: {number}</html>")
        with tempfile.TemporaryDirectory() as cache:
            _, manifest, parts = prepare_for_audit(dataset, Path(cache), place)
        if broken.name in {Path(path).name for path in manifest.paths[parts == "test"]}:
            return []
        broken.unlink()
    raise AssertionError("the test takes none")


def label_outside(place: Path) -> list[str]:
    rows = "".join(f"images/{p.parent.name}/{p.name},{p.parent.name}\n" for p in (place / "images").glob("*/*.png"))
    (place / "table.csv").write_text("path,label\n" + rows.replace(",7\n", ",seven\n"))
    classes = "[" + ", ".join(f'"{n}"' for n in range(10)) + "]"
    return [
        "--set",
        "dataset.reader=csv",
        "--set",
        "dataset.root=.",
        "--set",
        f"dataset.options={{table: table.csv, classes: {classes}}}",
    ]


def group_in_two_splits(place: Path) -> list[str]:
    lines = ["path,label,patient,split"]
    for index, path in enumerate(sorted((place / "images").glob("*/*.png"))):
        part = ("train", "train", "train", "test")[index % 4]
        lines.append(f"images/{path.parent.name}/{path.name},{path.parent.name},p{index // 2},{part}")
    (place / "table.csv").write_text("\n".join(lines) + "\n")
    return [
        "--set",
        "dataset.reader=csv",
        "--set",
        "dataset.root=.",
        "--set",
        "dataset.options={table: table.csv, group: patient, split: split}",
    ]


def unwritable_storage(place: Path) -> list[str]:
    (place / "file").write_text("")
    return ["--set", f"storage={place / 'file' / 'runs'}"]


def unknown_backbone(place: Path) -> list[str]:
    return ["--set", "backbones=[dinov9_tiny, mae_tiny]"]


def impossible_resources(place: Path) -> list[str]:
    return ["--set", "resources.cpus=4000"]


def impossible_concurrency(place: Path) -> list[str]:
    return ["--set", "resources.concurrent=4000"]


def against_the_readers_metric(place: Path) -> list[str]:
    return ["--set", "direction=minimize"]


def no_such_weights(place: Path) -> list[str]:
    return ["--set", "weights=pretrained"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (typo, ['unknown key "bugdet"', 'Did you mean "budget"']),
        (missing_folder, ["nowhere"]),
        (empty_class, ["ten"]),
        (unreadable_image, ["3/broken"]),
        (label_outside, ["seven", "row"]),
        (group_in_two_splits, ["train", "test", "official"]),
        (unwritable_storage, ["storage", "can't be written"]),
        (unknown_backbone, ['unknown backbone "dinov9_tiny"']),
        (impossible_resources, ["4000 CPUs"]),
        (impossible_concurrency, ["4000 concurrent"]),
        (against_the_readers_metric, ["direction: balanced_accuracy has maximize, found minimize"]),
        (no_such_weights, ["no trained weights of dinov2_tiny", "no trained weights of mae_tiny"]),
    ],
)
def test_told_before_anything_is_written(
    place: Path, spoil: Callable[[Path], list[str]], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    changes = spoil(place)
    before = sorted(place.rglob("*"))
    for command in ("check", "search"):
        assert main([command, str(place / "search.yaml"), *changes]) == 2
        told = capsys.readouterr().err
        assert all(word in told for word in words), told
        assert all(line.startswith("medtune: ") for line in told.splitlines())
        left = [p for p in sorted(place.rglob("*")) if p not in before and "cache" not in p.parts and p.name != "runs"]
        assert [p.name for p in left] in ([], ["check-digits.txt"]), "but for the full list of many problems"


def test_check_reads_files_of_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = f"weights={{dinov2_tiny: random, mae_tiny: {GOLDEN / 'vmamba_t' / 'checkpoint.pth'}}}"
    assert main(["check", str(place / "search.yaml"), "--set", wrong]) == 2
    told = capsys.readouterr().err
    assert "that mae_tiny needs are missing: blocks.0.attn" in told and "looks like VMamba" in told
    assert all(line.startswith("medtune: ") for line in told.splitlines())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("budget.trials=many", '--set budget.trials: should be a whole number; found "many".'),
        ("bugdet.trials=3", '--set bugdet.trials: unknown key "bugdet". Did you mean "budget"?'),
        ("budget.trails=3", '--set budget.trails: unknown key "trails" in "budget". Did you mean "trials"?'),
        ("dataset={reader: folder}", '--set dataset: "dataset.root" is missing; it has no default.'),
        (
            "budget.trials.most=3",
            '--set budget.trials.most=3: expected "budget.trials" to hold keys, found 8; correct the key, or give all '
            "of it by --set budget.trials=...",
        ),
    ],
)
def test_what_an_option_says_wrong_isnt_blamed_on_the_file(place: Path, change: str, said: str) -> None:
    with pytest.raises(Mistake) as caught:
        load(place / "search.yaml", [change])
    assert caught.value.sentences == (said,)


def test_an_option_below_a_key_that_holds_nothing(place: Path) -> None:
    file = place / "empty.yaml"
    file.write_text("name: a\ndataset: {reader: folder, root: images}\nbackbones: [dinov2_tiny]\nspace:\n")
    assert load(file, ["space.head_lr=0.001"]).space == {"head_lr": 0.001}
    with pytest.raises(Mistake, match=r'expected "space.a.b" to hold keys, found \[1, 2\]; correct the key'):
        load(file, ["space.a.b=[1, 2]", "space.a.b.c=3"])


def test_what_the_file_says_wrong_isnt_blamed_on_an_option(place: Path) -> None:
    file = place / "search.yaml"
    file.write_text(file.read_text().replace("trials: 8", "trials: many"))
    with pytest.raises(Mistake) as caught:
        load(file, ["budget.epochs=3", "metric=accuracy", "direction=minimize"])
    [said] = caught.value.sentences
    assert said == f'{file}: budget.trials: should be a whole number; found "many".'
    file.write_text(file.read_text().replace("trials: many", "trials: 8"))
    with pytest.raises(Mistake, match=r"search.yaml with --set metric with --set direction: direction should be max"):
        load(file, ["metric=accuracy", "direction=minimize"])


def test_folders_in_place_of_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["check", str(place)], ["final", str(place / "images")]):
        assert main(words) == 2
        assert ": expected a file of settings, found a folder" in capsys.readouterr().err


def test_only_what_is_wrong_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["final", "best.yaml", "--seeds", "0"]) == 2
    assert capsys.readouterr().err == "medtune: final: --seeds 0: expected 1 or more.\n"
    assert main(["final", "best.yaml", "--seeds", "0", "--workers", "-1"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "medtune: final: --seeds 0: expected 1 or more.",
        "medtune: final: --workers -1: expected 1 or more.",
    ]


def test_no_traceback_in_a_process_of_its_own(place: Path) -> None:
    done = medtune("search", place / "search.yaml", *unreadable_image(place))
    assert done.returncode == 2 and "3/broken" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_several_mistakes_come_together(place: Path) -> None:
    done = medtune(
        "check",
        place / "search.yaml",
        "--set",
        "backbones=[vit]",
        "--set",
        "dataset.root=nowhere",
        "--set",
        "resources.cpus=4000",
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3


def test_names_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["status", "x"],
        ["resume", "x"],
        ["export", "x", "-o", "b.yaml"],
        ["final", "b.yaml"],
        ["predict", "m", "i", "-o", "p.csv"],
        ["search", "s.yaml"],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("medtune: ")
    assert not list(tmp_path.iterdir())


def test_a_finished_searchs_settings_may_grow_but_not_change(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    file = copy / "search.yaml"
    settings = YAML(typ="safe").load(file.read_text())
    done = medtune("search", write_settings(tmp_path / "again.yaml", {**settings, "storage": str(finished.parent)}))
    assert done.returncode == 2 and "choose another name" in done.stderr
    write_settings(file, {**settings, "metric": "macro_f1", "seed": 5})
    done = medtune("resume", copy)
    assert done.returncode == 2
    assert "metric: was balanced_accuracy, is macro_f1" in done.stderr and "seed: was 0, is 5" in done.stderr


def test_an_export_from_other_data(finished: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    succeed("export", finished, "-o", best)
    write_digits(tmp_path / "other", 300)
    settings = YAML(typ="safe").load(best.read_text())
    write_settings(best, {**settings, "dataset": {**settings["dataset"], "root": str(tmp_path / "other")}})
    done = medtune("final", best, "--seeds", "1", "-o", tmp_path / "out")
    assert done.returncode == 2 and "export from other data" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    write_settings(best, {**settings, "digests": {**settings["digests"], "weights": "0" * 64}})
    done = medtune("final", best, "--seeds", "1", "-o", tmp_path / "out")
    assert done.returncode == 2 and "the weights of" in done.stderr


def write_settings(path: Path, settings: object) -> Path:
    with path.open("w") as file:
        YAML(typ="safe").dump(settings, file)
    return path
