"""What the driver makes of what jobs tell: once each, in any interruption."""

from pathlib import Path
from typing import Any

from search.record import Epoch, State, Trial
from search.sampler import Sampler
from search.scheduler import Driver
from search.study import Study, open_storage
from spaces.config import SearchConfig
from spaces.library import assemble

CONFIG = SearchConfig.parse(
    {
        "name": "a",
        "dataset": {"reader": "folder", "root": "x"},
        "backbones": ["dinov2_tiny", "mae_tiny"],
        "weights": "random",
        "budget": {"trials": 4, "epochs": 8},
        "space": {"trained_blocks": 0},
    },
    "s",
)


def driver(folder: Path) -> Driver:
    storage = open_storage(folder, None)
    if not (folder / "study.journal").stat().st_size:
        Study.create(storage, "a", "maximize", {})
    study = Study.open(storage, "a")
    sampler = Sampler(assemble(CONFIG), "maximize", 0, "tpe", study.trials)

    def order(trials: list[Trial]) -> dict[str, Any]:
        return {"trials": [{"number": t.number} for t in trials]}

    return Driver(CONFIG, "maximize", study, sampler, [], order)


def epoch(number: int, epoch: int, value: float) -> dict[str, Any]:
    told = {"epoch": epoch, "value": value, "standard_error": 0.0, "train_loss": 1.0, "metrics": {}, "seconds": 1.0}
    return {"trial": number, "epoch": {**told, "time": 0.0}}


def test_a_rung_is_decided_once_however_the_search_was_stopped(tmp_path: Path) -> None:
    first = driver(tmp_path)
    assert [first.next_job() for _ in range(2)] == [{"trials": [{"number": n}]} for n in (0, 1)]
    for e in (1, 2):
        assert first.told(epoch(0, e, 0.9))
    assert first.told(epoch(1, 1, 0.1))
    first.stopping.set()
    assert not first.told(epoch(1, 2, 0.1))
    assert first.study.trials[1].state is State.PRUNED, "the rung is judged though the search is being stopped"
    assert not first.told(epoch(0, 3, 0.9)) and first.study.trials[0].state is State.RUNNING


def test_an_epoch_written_but_not_judged_is_judged_when_told_again(tmp_path: Path) -> None:
    first = driver(tmp_path)
    first.next_job(), first.next_job()
    for e in (1, 2):
        first.told(epoch(0, e, 0.9))
    first.told(epoch(1, 1, 0.1))

    first.study.epoch(1, Epoch.from_plain(epoch(1, 2, 0.1)["epoch"]))  # and then the driver is killed
    second = driver(tmp_path)
    assert second.next_job() == {"trials": [{"number": 0}]} and second.next_job() == {"trials": [{"number": 1}]}
    assert second.told(epoch(1, 1, 0.1)), "an old epoch told again isn't judged again"
    assert not second.told(epoch(1, 2, 0.1))
    assert second.study.trials[1].state is State.PRUNED


def test_the_budget_and_what_comes_first(tmp_path: Path) -> None:
    one = driver(tmp_path)
    jobs = []
    while (job := one.next_job()) is not None:
        jobs.append(job)
    assert len(jobs) == 4 and one.next_job() is None
    again = driver(tmp_path)
    assert [again.next_job() for _ in range(5)] == [*jobs, None]
    again.told({"trial": 0, "end": {"state": "failed", "cause": "the loss was nan at step 3", "value": None}})
    again.told({"trial": 0, "end": {"state": "complete", "cause": "", "value": 1.0}})
    assert again.study.trials[0].state is State.FAILED
