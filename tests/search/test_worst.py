"""Which backbones validation can't tell apart, and the worst errors with their images, from kept predictions."""

import base64
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.folder import SearchFolder
from search.leaderboard import leaderboard, told_apart
from search.optimism import corrected_value
from search.record import State, best
from search.report import holds_images, report
from search.worst import SIDE, _ranked, worst_errors
from spaces.mistakes import Mistake
from tests.search.conftest import medtune, succeed, write_digits
from tests.search.test_report import Page, make
from tests.trainables.test_predictions import DAMAGES
from trainables.data.units import units_of
from trainables.files import write_text
from trainables.predictions import Predictions, numbers_of
from trainables.trial_files import PREDICTIONS, trial_folder


def predict(found: SearchFolder, skill: dict[str, float]) -> None:
    """Keeps predictions of every complete trial: right with a probability that its backbone decides."""
    prepared = found.prepared()
    units = units_of(prepared.manifest.take(prepared.validation))
    random = np.random.default_rng(1)
    luck = random.random(len(units))
    for trial in found.study().trials:
        if trial.state is State.COMPLETE:
            right = luck < skill[str(trial.point["backbone"])]
            said = np.where(right, units.truth, (units.truth + 1) % 10)
            p = np.full((len(units), 10), 0.02, np.float32)
            p[np.arange(len(units)), said] = 0.82
            folder = trial_folder(found.path, trial.number)
            folder.mkdir(parents=True, exist_ok=True)
            zeros = np.zeros(len(units), np.int64)
            Predictions(p, units.truth, numbers_of(units.groups), zeros).save(folder / PREDICTIONS)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    home = tmp_path_factory.mktemp("worst")
    write_digits(home / "secret-folder", 300)
    found = make(home, 16)
    predict(found, {"dinov2_tiny": 0.95, "mae_tiny": 0.3})
    return found


def test_a_backbone_that_is_clearly_behind_is_out(found: SearchFolder) -> None:
    study = found.study()
    rows = leaderboard(study.trials, found.config().backbones, "maximize", study.identity["weights"])
    apart = told_apart(found.path, rows, "balanced_accuracy", "maximize")
    assert isinstance(apart, dict)
    assert apart["dinov2_tiny"].in_question and not apart["mae_tiny"].in_question
    high = apart["mae_tiny"].high
    assert high is not None and high <= 0 < apart["dinov2_tiny"].difference


def test_what_cant_be_told_says_why(found: SearchFolder, tmp_path: Path) -> None:
    study = found.study()
    rows = leaderboard(study.trials, found.config().backbones, "maximize", study.identity["weights"])
    assert told_apart(found.path, rows[:1], "balanced_accuracy", "maximize") == (
        "fewer than two backbones have a complete trial"
    )
    missing = told_apart(tmp_path, rows, "balanced_accuracy", "maximize")
    assert isinstance(missing, str) and "are missing or damaged" in missing


def test_the_worst_errors_are_those_and_no_others(found: SearchFolder) -> None:
    study = found.study()
    winner = best(study.trials, "maximize")
    assert winner is not None
    errors = worst_errors(found, winner, 1000)
    kept = Predictions.load(trial_folder(found.path, winner.number) / PREDICTIONS)
    assert len(errors) == int((kept.probabilities.argmax(1) != kept.truth).sum()) > 5
    assert all(e.said == (e.truth + 1) % 10 and e.probability == pytest.approx(0.02) for e in errors)
    picture = Image.open(io.BytesIO(base64.b64decode(errors[0].images[0].partition(",")[2])))
    assert picture.format == "PNG" and max(picture.size) == SIDE and not picture.info
    manifest, shown = found.prepared().manifest, np.asarray(picture.resize((8, 8), Image.Resampling.NEAREST))
    same = [
        row
        for row in found.prepared().validation
        if (np.asarray(Image.open(manifest.root / str(manifest.paths[row]))) == shown).all()
    ]
    assert any(manifest.labels[row] == errors[0].truth for row in same), "the picture is of an image of that class"


def test_images_of_patients_are_told_of_where_there_are_some(found: SearchFolder, tmp_path: Path) -> None:
    told = "It holds images of patients"
    succeed("report", found.path, "-o", tmp_path / "some.html", "--images")
    assert holds_images(tmp_path / "some.html")
    right = SearchFolder(shutil.copytree(found.path, tmp_path / "right"))
    predict(right, {"dinov2_tiny": 1.0, "mae_tiny": 1.0})
    shown = succeed("report", right.path, "-o", tmp_path / "none.html", "--images")
    assert not holds_images(tmp_path / "none.html") and told not in shown and "It holds no images" in shown
    assert told in succeed("report", found.path, "-o", tmp_path / "again.html", "--images")


def test_findings_are_got_wrong_one_by_one() -> None:
    p = np.array([[0.95, 0.2, 0.4], [0.1, 0.7, 0.5]], np.float32)
    truth = np.array([[0, 0, 1], [1, np.nan, 1]], np.float32)
    zeros = np.zeros(2, np.int64)
    found = _ranked(Predictions(p, truth, zeros, zeros))
    assert [(u, f, there) for u, f, _, _, there in found] == [(0, 0, False), (1, 0, True), (0, 2, True)]
    assert [round(q, 3) for *_, q, _ in found] == [0.05, 0.1, 0.4]


def test_images_only_where_they_are_asked_for(found: SearchFolder, tmp_path: Path) -> None:
    plain = report([found], tmp_path / "a.html").read_text()
    assert "<img" not in plain and "img-src" not in plain and "data:image" not in plain
    html = report([found], tmp_path / "b.html", images=True).read_text()
    page = Page(html)
    assert page.problems == [] and html.count('<img src="data:image/png;base64,') == 12
    assert "Images of patients." in page.text and "img-src data:" in html
    assert str(found.prepared().manifest.paths[0]) not in html and "secret-folder" not in html
    for other in ("a.md", "a.csv"):
        with pytest.raises(Mistake, match="in an .html file alone"):
            report([found], tmp_path / other, images=True)


def test_the_leaderboard_says_who_may_be_the_best(found: SearchFolder, tmp_path: Path) -> None:
    text = Page(report([found], tmp_path / "a.html").read_text()).text
    assert "multiple comparisons with the best (Hsu 1981), simultaneous" in text and "may be the best" in text
    markdown = report([found], tmp_path / "a.md").read_text()
    [row] = [line for line in markdown.splitlines() if line.startswith("| mae_tiny | RANDOM")]
    assert "] | no |" in row


def test_an_image_that_has_changed_is_refused(found: SearchFolder, tmp_path: Path) -> None:
    manifest = found.prepared().manifest
    paths = [manifest.root / str(manifest.paths[row]) for row in found.prepared().validation]
    before = {path: path.read_bytes() for path in paths}
    winner = best(found.study().trials, "maximize")
    assert winner is not None
    try:
        for path in paths:
            write_text(path, "no image")
        with pytest.raises(Mistake, match="an image has changed since the search"):
            worst_errors(found, winner)
        for path in paths:
            path.unlink()
        with pytest.raises(Mistake, match="can't be read any more"):
            worst_errors(found, winner)
    finally:
        for path, data in before.items():
            path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_predictions_leave_the_rest_of_a_report(
    found: SearchFolder, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """What rests on them is said to be missing; with --images, which needs them, a sentence and no page."""
    copy = tmp_path / "found"
    shutil.copytree(found.path, copy)
    study = SearchFolder(copy).study()
    winner = best(study.trials, "maximize")
    assert winner is not None
    file = trial_folder(copy, winner.number) / PREDICTIONS
    file.write_bytes(damage(file.read_bytes()))
    said = f"the validation predictions of trial {winner.number} are missing or damaged"
    rows = leaderboard(study.trials, found.config().backbones, "maximize", study.identity["weights"])
    assert told_apart(copy, rows, "balanced_accuracy", "maximize") == said
    assert corrected_value(copy, study.trials, "balanced_accuracy") == said
    assert medtune("report", copy, "-o", tmp_path / "a.html").returncode == 0
    assert said in Page((tmp_path / "a.html").read_text()).text
    refused = medtune("report", copy, "-o", tmp_path / "b.html", "--images")
    assert refused.returncode == 2 and "are missing or damaged; leave --images out" in refused.stderr
