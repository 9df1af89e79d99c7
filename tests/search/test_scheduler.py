"""What the driver makes of what jobs tell: once each, in any interruption."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from search.launch import DEATHS, group_size
from search.record import Epoch, State, Trial
from search.sampler import sampler_of
from search.scheduler import NODES, Driver, RecordScheduler
from search.study import Study, open_storage
from spaces.config import BudgetConfig, SearchConfig
from spaces.dimensions import Point
from spaces.library import assemble, first_points

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


COMPARED = SearchConfig.parse(
    {
        **CONFIG.plain(),
        "strategy": "compare",
        "budget": {"trials": 12, "epochs": 8},
        "try": [
            {"backbone": "mae_tiny", "head_lr": 1e-3},
            {"backbone": "mae_tiny", "head_lr": 2e-3},
            {"backbone": "dinov2_tiny", "head_lr": 3e-3},
        ],
    },
    "s",
)


def driver(folder: Path, config: SearchConfig = CONFIG, first: list[Point] | None = None) -> Driver:
    storage = open_storage(folder, None)
    if not (folder / "study.journal").stat().st_size:
        Study.create(storage, "a", "maximize", {})
    study = Study.open(storage, "a")
    sampler = sampler_of(config, assemble(config), "maximize", study.trials)

    def order(trials: list[Trial]) -> dict[str, Any]:
        return {"trials": [{"number": t.number} for t in trials]}

    return Driver(config, "maximize", study, sampler, first or [], order)


def epoch(number: int, epoch: int, value: float) -> dict[str, Any]:
    told = {"epoch": epoch, "value": value, "standard_error": 0.0, "train_loss": 1.0, "metrics": {}, "seconds": 1.0}
    return {"trial": number, "epoch": {**told, "time": 0.0}}


def test_a_rung_is_decided_once_however_the_search_was_stopped(tmp_path: Path) -> None:
    first = driver(tmp_path)
    assert [first.next_job() for _ in range(2)] == [{"trials": [{"number": n}]} for n in (0, 1)]
    for e in (1, 2):
        assert first.told([epoch(0, e, 0.9)], [0])
    assert first.told([epoch(1, 1, 0.1)], [1])
    first.stopping.set()
    assert not first.told([epoch(1, 2, 0.1)], [1])
    assert first.study.trials[1].state is State.PRUNED, "the rung is judged though the search is being stopped"
    assert not first.told([epoch(0, 3, 0.9)], [0]) and first.study.trials[0].state is State.RUNNING


def test_an_epoch_written_but_not_judged_is_judged_when_told_again(tmp_path: Path) -> None:
    first = driver(tmp_path)
    first.next_job(), first.next_job()
    for e in (1, 2):
        first.told([epoch(0, e, 0.9)], [0])
    first.told([epoch(1, 1, 0.1)], [1])

    first.study.epoch(1, Epoch.from_plain(epoch(1, 2, 0.1)["epoch"]))  # and then the driver is killed
    second = driver(tmp_path)
    assert second.next_job() == {"trials": [{"number": 0}]} and second.next_job() == {"trials": [{"number": 1}]}
    assert second.told([epoch(1, 1, 0.1)], [1]), "an old epoch told again isn't judged again"
    assert not second.told([epoch(1, 2, 0.1)], [1])
    assert second.study.trials[1].state is State.PRUNED


def test_the_budget_and_what_comes_first(tmp_path: Path) -> None:
    one = driver(tmp_path)
    jobs = []
    while (job := one.next_job()) is not None:
        jobs.append(job)
    assert len(jobs) == 4 and one.next_job() is None
    again = driver(tmp_path)
    assert [again.next_job() for _ in range(5)] == [*jobs, None]
    again.told([{"trial": 0, "end": {"state": "failed", "cause": "the loss was nan at step 3", "value": None}}], [0])
    again.told([{"trial": 0, "end": {"state": "complete", "cause": "", "value": 1.0}}], [0])
    assert again.study.trials[0].state is State.FAILED


def compared(folder: Path, config: SearchConfig = COMPARED) -> Driver:
    return driver(folder, config, first_points(config, assemble(config), 100))


def finish(one: Driver, job: dict[str, Any] | None, value: float) -> None:
    assert job is not None
    [trial] = job["trials"]
    one.told([{"trial": trial["number"], "end": {"state": "complete", "cause": "", "value": value}}], [trial["number"]])


def test_every_backbone_that_is_compared_gets_as_many_trials(tmp_path: Path) -> None:
    one = compared(tmp_path)
    while (job := one.next_job()) is not None:
        number = job["trials"][0]["number"]
        better = one.study.trials[number].point["backbone"] == "mae_tiny"
        if number % 3:  # whatever becomes of a trial, it counts
            finish(one, job, 0.9 if better else 0.1)
        else:
            one.told([{"trial": number, "end": {"state": "failed", "cause": "x", "value": None}}], [number])
    trials = one.study.trials
    assert [t.point["backbone"] for t in trials] == ["dinov2_tiny", "mae_tiny"] * 6
    first = [(t.point["backbone"], t.point["head_lr"]) for t in trials if t.why == "first configurations"]
    assert first == [("dinov2_tiny", 3e-3), ("mae_tiny", 1e-3), ("mae_tiny", 2e-3)]
    assert one.early is None


def test_a_resumed_comparison_deals_on_where_it_was(tmp_path: Path) -> None:
    def points(one: Driver) -> list[Point]:
        return [t.point for t in one.study.trials]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    undisturbed = compared(whole)
    while (job := undisturbed.next_job()) is not None:
        finish(undisturbed, job, 0.5)
    for _ in range(4):
        one = compared(parts)
        for _ in range(3):
            finish(one, one.next_job(), 0.5)
    last = compared(parts)
    assert last.next_job() is None and points(last) == points(undisturbed)
    more = compared(parts, COMPARED.model_copy(update={"budget": COMPARED.budget.model_copy(update={"trials": 14})}))
    assert more.next_job() is not None and more.next_job() is not None and more.next_job() is None
    assert [p["backbone"] for p in points(more)][-2:] == ["dinov2_tiny", "mae_tiny"]


def test_an_exhausted_backbone_leaves_its_share_to_nobody(tmp_path: Path) -> None:
    names = ("head", "head_lr", "level", "batch_size", "mixup", "label_smoothing", "ema", "warmup", "head_weight_decay")
    values = ("linear", 1e-3, 0, 32, 0.0, 0.0, 0.0, 0.1, 0.0)
    small = {**dict(zip(names, values, strict=True)), "trained_blocks": 0, "head_lr@mae_tiny": {"float": [1e-4, 1e-2]}}
    config = SearchConfig.parse({**CONFIG.plain(), "strategy": "compare", "expert_first": False, "space": small}, "s")
    one = compared(tmp_path, config)
    while one.next_job() is not None:
        pass
    assert [t.point["backbone"] for t in one.study.trials] == ["dinov2_tiny", "mae_tiny", "mae_tiny"]
    assert one.early is not None and "dinov2_tiny after 1" in one.early.text


def test_backbones_that_are_compared_are_stopped_by_their_own_best_only(tmp_path: Path) -> None:
    for config, folder, goes_on in ((CONFIG, "free", False), (COMPARED, "compare", True)):
        (tmp_path / folder).mkdir()
        one = driver(tmp_path / folder, config)
        jobs: dict[str, int] = {}
        while len(jobs) < 2:
            job = one.next_job()
            assert job is not None
            number = job["trials"][0]["number"]
            jobs[str(one.study.trials[number].point["backbone"])] = number
        for e in (1, 2):
            one.told([epoch(jobs["dinov2_tiny"], e, 0.9)], [jobs["dinov2_tiny"]])
        one.told([epoch(jobs["mae_tiny"], 1, 0.2)], [jobs["mae_tiny"]])
        assert one.told([epoch(jobs["mae_tiny"], 2, 0.2)], [jobs["mae_tiny"]]) is goes_on


def grouped(folder: Path, halted: list[int]) -> Driver:
    one = driver(folder, CONFIG.model_copy(update={"budget": BudgetConfig(trials=7, epochs=8)}))
    one.group, one.halt = 3, halted.append
    return one


def test_heads_that_can_share_a_pass_are_one_job(tmp_path: Path) -> None:
    one = grouped(tmp_path, [])
    jobs = []
    while (job := one.next_job()) is not None:
        jobs.append([trial["number"] for trial in job["trials"]])
    assert [number for job in jobs for number in job] == list(range(7)), "the budget counts trials, not jobs"
    assert max(map(len, jobs)) == 3
    free = {"head_lr", "head_weight_decay", "warmup", "mixup", "label_smoothing", "ema"}
    for job in jobs:
        points = [one.study.trials[number].point for number in job]
        assert len({points[0]["head"], "linear"}) == 1 or len(points) == 1
        alike = [{name: value for name, value in point.items() if name not in free} for point in points]
        assert all(other == alike[0] for other in alike)
        assert len({str(point) for point in points}) == len(points)


def test_one_of_a_job_is_stopped_by_itself_and_a_resume_groups_the_others(tmp_path: Path) -> None:
    halted: list[int] = []
    one = grouped(tmp_path, halted)
    job = next(job for job in iter(one.next_job, None) if len(job["trials"]) == 3)
    first, second, third = numbers = [trial["number"] for trial in job["trials"]]
    messages = [epoch(n, e, value) for e in (1, 2) for n, value in zip(numbers, (0.9, 0.1, 0.95), strict=True)]
    assert one.told(messages, numbers), "the others go on"
    assert one.study.trials[second].state is State.PRUNED and halted == [second]
    assert one.told([epoch(second, 3, 0.1), epoch(first, 3, 0.9)], numbers), "what it tells meanwhile changes nothing"
    assert one.study.trials[second].done == 2 and one.study.trials[first].done == 3
    again = grouped(tmp_path, halted)
    left = [[trial["number"] for trial in job["trials"]] for job in map(again.order, again.unfinished)]
    assert [first, third] in left
    ends = [{"trial": n, "end": {"state": "complete", "cause": "", "value": 0.5}} for n in (first, third)]
    assert again.told(ends, [first, third])
    assert {again.study.trials[n].state for n in (first, third)} == {State.COMPLETE}


def test_when_all_fail_for_one_reason_no_more_are_started(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"budget": BudgetConfig(trials=20, epochs=8)})

    def failed(one: Driver, cause: str) -> None:
        job = one.next_job()
        assert job is not None
        [trial] = job["trials"]
        end = {"state": "failed", "cause": cause, "value": None}
        one.told([{"trial": trial["number"], "end": end}], [trial["number"]])

    for name in "ab":
        (tmp_path / name).mkdir()
    one = driver(tmp_path / "a", config)
    for step in range(5):
        failed(one, f"the loss was nan at step {step}")
    assert one.next_job() is None and one.ending is not None
    assert "failed for one reason" in one.ending.text and "the loss was nan" in one.ending.text
    other = driver(tmp_path / "b", config)
    for step in range(6):
        failed(other, "the loss was nan" if step else "no space left on device")
    assert other.next_job() is not None, "different reasons may be the configurations'"


def test_heads_are_grouped_only_where_nothing_deeper_is_searched() -> None:
    def group(blocks: Any, folds: int = 1, trials: int = 50) -> int:
        config = CONFIG.model_copy(update={"space": {"trained_blocks": blocks}, "budget": BudgetConfig(trials=trials)})
        prepared = SimpleNamespace(folds=(None,) * folds)
        return group_size(SimpleNamespace(prepared=prepared, space=assemble(config), config=config), 2)

    assert group(0) == 12 and group(0, folds=5) == 1 and group(0, trials=1000) == 64
    assert group({"choice": [0, 1]}) == group("all") == 1


class FakeTrial(SimpleNamespace):
    """What of Tune's trial is asked after a failure."""

    def fails(self, said: str) -> None:
        self.run_metadata.num_failures += 1
        with Path(self.error_file).open("a") as file:
            file.write(f"Failure # {self.run_metadata.num_failures} (occurred at ...)\n{said}\n")

    def should_recover(self) -> bool:
        return bool(self.run_metadata.num_failures <= DEATHS)


def failing(folder: Path) -> tuple[Driver, FakeTrial, Callable[[], None]]:
    """A driver with one trial under way, and what Tune calls after each of its failures."""
    drives = driver(folder)
    order = drives.next_job()
    trial = FakeTrial(error_file=str(folder / "error.txt"), config=order, run_metadata=SimpleNamespace(num_failures=0))
    tune: Any = None  # isn't asked
    told: Any = trial
    return drives, trial, lambda: RecordScheduler(drives).on_trial_error(tune, told)


def test_machines_that_go_away_do_not_count_against_a_trial(tmp_path: Path) -> None:
    """Their loss is retried ten times; a process that dies by itself, twice."""
    drives, trial, tell = failing(tmp_path)
    for _ in range(NODES):
        trial.fails("The actor died because its node has died. Node Id: 1234")
        assert trial.should_recover()
        tell()
    assert trial.run_metadata.num_failures == 0
    for left in (True, True, False):
        trial.fails("The actor died unexpectedly before finishing this task.")
        assert trial.should_recover() is left
        tell()
    assert drives.study.trials[0].state is State.FAILED and "died repeatedly" in drives.study.trials[0].cause


def test_a_trial_that_takes_every_machine_with_it_ends(tmp_path: Path) -> None:
    drives, trial, tell = failing(tmp_path)
    for _ in range(NODES + DEATHS):
        trial.fails("The actor died because its node has died. Node Id: 1234")
        tell()
    assert not drives.study.trials[0].state.terminal
    trial.fails("The actor died because its node has died. Node Id: 1234")
    tell()
    assert drives.study.trials[0].state is State.FAILED


def test_ray_tells_in_words_that_it_ended_a_worker_for_want_of_memory(tmp_path: Path) -> None:
    drives, trial, tell = failing(tmp_path)
    for _ in range(DEATHS + 1):
        trial.fails("1 worker(s) were killed due to the node running low on memory. Memory on the node was 4.28GB used")
        tell()
    assert drives.study.trials[0].state is State.INFEASIBLE and "memory" in drives.study.trials[0].cause
