"""A best value of 1, as few images give: told with why it has no interval, and nowhere as certain."""

from pathlib import Path

import pytest

from search.difference import difference
from search.folder import SearchFolder
from search.note import note
from search.record import Epoch, State, best
from search.report import report
from search.sampler import Sampler
from search.status import status_lines
from search.tracking import search_facts
from spaces.library import assemble
from tests.search.conftest import write_digits
from tests.search.finals import search_of
from tests.search.test_report import Page

WHY = "no interval: it is the highest value there is"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchFolder, SearchFolder]:
    """Two searches; in the second every image was told rightly by its last trial."""
    home = tmp_path_factory.mktemp("certain")
    write_digits(home / "images", 200)
    budget = {"trials": 3, "epochs": 2}
    usual, certain = (search_of(home, name=name, budget=budget, strategy="free") for name in ("usual", "certain"))
    study, space = certain.study(), assemble(certain.config())
    point = space.complete({"backbone": "mae_tiny"})
    keyed, asked = space.keyed(point), Sampler(space, "maximize", 0, "random", []).distributions(point)
    study.add(point, keyed, asked, seed=2, job="job-00002", why="test")
    for epoch in (1, 2):
        study.epoch(2, Epoch(epoch, 1.0, 0.0, 1.0, {}, 1.0, study.trials[2].started + epoch))
    study.end(2, State.COMPLETE, "", 1.0)
    return usual, certain


def test_in_the_report(pair: tuple[SearchFolder, SearchFolder], tmp_path: Path) -> None:
    text = Page(report([pair[1]], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert f"macro AUROC, {WHY}" in text and f"macro AUROC 1.0000 ({WHY})." in text
    assert (
        "0.0000" not in text
        and "luck alone" not in text
        and text.count("±") == text.count("mean ± sd") + text.count("0.9500 ± 0.0707") == 2
    ), "of trials, not of one"
    assert "The best of 3 complete trials is too good on average. Believe the test set." in text
    assert "luck alone" in Page(report([pair[0]], tmp_path / "u.html").read_text(encoding="utf-8")).text
    assert f"| best on validation | 1.0000 ({WHY}): trial 2" in report([pair[1]], tmp_path / "r.md").read_text()


def test_in_status(pair: tuple[SearchFolder, SearchFolder]) -> None:
    usual, certain = (" ".join(str(line) for line in status_lines(found, None)) for found in pair)
    assert f"1.0000 ({WHY}) on validation" in certain and "± 0.0000" not in certain
    assert "In brackets" in usual and "In brackets" not in certain, "there are none"
    assert "too good on average" in certain


def test_in_a_difference(pair: tuple[SearchFolder, SearchFolder]) -> None:
    found = {one.what: (one.first, one.second) for one in difference(*pair)}
    first, second = found["best of mae_tiny"]
    assert first.startswith("0.9000 [0.8") and second == f"1.0000 ({WHY})"


def test_in_mlflow(pair: tuple[SearchFolder, SearchFolder]) -> None:
    usual, certain = (
        note(search_facts(found.path), {"complete": 3}, best(found.study().trials, "maximize"), False, 0.1)
        for found in pair
    )
    assert "macro_auroc 0.9000 [0.8" in usual and "In brackets" in usual
    assert f"macro_auroc 1.0000 ({WHY}):" in certain and "In brackets" not in certain
