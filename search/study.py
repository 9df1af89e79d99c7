"""The durable record of a search: an Optuna study, written by one process at a time.

Everything that happens to a trial is in it: parameters, every epoch with its time, state, cause. Ray's own snapshot of
an experiment is never needed to go on. A trial comes into the record by one write, with its parameters; an epoch and an
end are written before anything acts on them; each write may be repeated without harm.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.record import Epoch, State, Trial
from spaces.config import Direction
from spaces.dimensions import Point
from spaces.mistakes import Mistake

T = TypeVar("T")
log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)
GLANCE = 1.0  # seconds for which a mirror that looks whether the lock is free may hold it
PATIENCE = 600.0  # seconds for which a database that is away is waited for
LONGEST_WAIT = 10.0  # seconds between two attempts
TRIAL, END, EPOCH = "medtune:trial", "medtune:end", "medtune:epoch:"
SEARCH, ACCEPTED = "medtune:search", "medtune:accepted_code"
JOURNAL = "study.journal"
OPTUNA_STATE = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.CANCELLED: TrialState.FAIL,
    State.FAILED: TrialState.FAIL,
    State.INFEASIBLE: TrialState.FAIL,
}


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the search's lock: one driver at a time. The system frees it when a process dies, however it dies.

    Raises:
        Mistake: another process holds it.
    """
    lock, owner = FileLock(folder / "study.lock"), folder / "study.owner"
    try:
        lock.acquire(timeout=GLANCE)
    except Timeout:
        who = owner.read_text().strip() if owner.exists() else "another process"
        raise Mistake(
            f'the search "{folder.name}" is being run by {who}; wait until it ends, or stop it first.'
        ) from None
    try:
        owner.write_text(f"process {os.getpid()}\n")
        yield
    finally:
        lock.release()


def repair_journal(path: Path) -> Path | None:
    """Cuts a journal back to its last whole line; a process killed in a write leaves a torn one that would make every
    later load fail. Removes the lock that it left, too. To be called by the only writer, before it opens the study.

    Returns:
        The file in which the torn tail was kept, or None where nothing was torn.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return cut_torn_line(path)


def cut_torn_line(path: Path) -> Path | None:
    """Cuts a file of lines back to its last whole one, and keeps the rest beside it. Returns where, or None."""
    if not path.exists():
        return None
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == len(data):
        return None
    torn = path.with_name(f"{path.name}.torn-{time.time_ns()}")
    try:
        torn.write_bytes(data[whole:])
    except OSError as error:
        if not no_space(error):
            raise
        torn.unlink(missing_ok=True)  # half a line is of no use but to look at; the whole ones are what counts
    with path.open("r+b") as file:
        file.truncate(whole)
        file.flush()
        os.fsync(file.fileno())
    log.warning(
        "the journal ended in half a line (%d bytes), which was cut off and kept in %s", len(data) - whole, torn.name
    )
    return torn


def no_space(error: OSError) -> bool:
    """Whether the disk is full, or a quota used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Optuna's storage of a search: the journal in its folder, or the database at `url`."""
    if url:
        with _told_of_database():
            return RDBStorage(url)
    journal = folder.absolute() / JOURNAL  # Optuna's lock spins for ever on a relative path
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal))))


def existing_storage(folder: Path, url: str | None) -> BaseStorage:
    """As `open_storage`, of a search that has one already: nothing is made there.

    Raises:
        Mistake: the journal is missing or damaged; a database can't be opened.
    """
    journal = folder / JOURNAL
    if not url:
        if not journal.exists():
            raise Mistake(
                f"{journal}: no such file, which holds the search's record; restore it from a backup, or delete the "
                "folder and search anew."
            )
        for number, line in enumerate(whole_lines(journal), start=1):
            if not _is_object(line):
                raise _damaged(f"{journal}: line {number}: damaged (no JSON)")
    try:
        return open_storage(folder, url)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:  # of Optuna, as it replays
        raise _damaged(f"{journal}: damaged (its lines don't fit together: {type(error).__name__})") from error


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that is added to, without a last one that is being written, or was when its writer died."""
    return path.read_bytes().split(b"\n")[:-1]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _damaged(what: str) -> Mistake:
    return Mistake(f"{what}; restore the file from a backup. What trials have written themselves isn't touched by it.")


def database_has(url: str, name: str) -> bool:
    """Whether a database has a study of that name. Nothing is made there, neither tables nor a file.

    Raises:
        Mistake: it can't be opened.
    """
    import sqlalchemy

    with _told_of_database():
        engine = sqlalchemy.create_engine(url)
        file = engine.url.database if engine.url.get_backend_name() == "sqlite" else None
        new = Path(file) if file and not Path(file).exists() else None  # connecting would make it
        try:
            with engine.connect() as connection:
                empty = not sqlalchemy.inspect(connection).has_table("studies")
        finally:
            engine.dispose()
            if new:
                new.unlink(missing_ok=True)
        if empty:
            return False
        storage = RDBStorage(url)
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


def has_already(name: str) -> str:
    """A sentence: why a record can't be started under a name."""
    return (
        f'the study storage has a study "{name}"; resume it, or give this search another name. (One without trials may '
        "be what a killed process left: optuna delete-study takes it away.)"
    )


@contextlib.contextmanager
def _told_of_database() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # SQLAlchemy's drivers raise errors of their own classes
        raise Mistake(
            f"study: the storage can't be opened ({type(error).__name__}); correct its address, driver or rights."
        ) from error


class Study:
    """The record, in memory and on disk. One writer; readers make one with `read`."""

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self.storage, self.name = storage, name
        self.study_id = storage.get_study_id_from_name(name)
        attributes = storage.get_study_user_attrs(self.study_id)
        self.identity: dict[str, Any] = attributes.get(SEARCH, {})
        self.accepted: list[dict[str, Any]] = attributes.get(ACCEPTED, [])
        """Changes of the code that a person accepted: digest, and trials that were in the record then."""
        self.failure: Mistake | None = None
        """Why nothing can be written any more."""
        self.trials: list[Trial] = []
        self._ids: list[int] = []
        self._torn: list[FrozenTrial] = []
        self._uncertain = False  # whether the write under way failed before
        for frozen in storage.get_all_trials(self.study_id, deepcopy=False):
            if TRIAL in frozen.user_attrs:
                self.trials.append(_from_frozen(frozen))
                self._ids.append(frozen._trial_id)
                if not frozen.state.is_finished() and END in frozen.user_attrs:
                    self._torn.append(frozen)

    @classmethod
    def create(cls, storage: BaseStorage, name: str, direction: Direction, identity: dict[str, Any]) -> Study:
        """A new study.

        Args:
            identity: what the search is, as plain data: format, digests, settings that a resume may not change.

        Raises:
            Mistake: the storage has one of that name.
        """
        way = optuna.study.StudyDirection.MAXIMIZE if direction == "maximize" else optuna.study.StudyDirection.MINIMIZE
        try:
            study_id = storage.create_new_study([way], name)
        except optuna.exceptions.DuplicatedStudyError:
            raise Mistake(has_already(name)) from None
        storage.set_study_user_attr(study_id, SEARCH, identity)
        return cls(storage, name)

    @classmethod
    def open(cls, storage: BaseStorage, name: str) -> Study:
        """An existing study, for its writer: an end that was written but not carried out is carried out now.

        Raises:
            Mistake: there is none of that name.
        """
        study = cls.read(storage, name)
        for frozen in study._torn:
            study._carry_out(frozen._trial_id, study.trials[study._ids.index(frozen._trial_id)])
        return study

    @classmethod
    def read(cls, storage: BaseStorage, name: str) -> Study:
        """An existing study, as it is now. Nothing is written.

        Raises:
            Mistake: there is none of that name, or what is in it isn't what this class writes.
        """
        try:
            storage.get_study_id_from_name(name)
        except KeyError:
            raise Mistake(
                f'the study storage has no study "{name}"; correct study: in its search.yaml, or start the search.'
            ) from None
        try:
            return cls(storage, name)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(f'the record of "{name}": damaged ({type(error).__name__}: {error})') from error

    def add(
        self,
        point: Point,
        keyed: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        *,
        seed: int,
        job: str,
        why: str,
    ) -> Trial:
        """A new running trial, by one write.

        Args:
            point: values by dimension's name, fixed ones included.
            keyed: the asked values by dimension's key, as Optuna's parameters; `distributions` likewise.
        """
        started = time.time()
        own = {"point": point, "seed": seed, "job": job, "started": started, "why": why}
        template = create_trial(
            state=TrialState.RUNNING, params=keyed, distributions=distributions, user_attrs={TRIAL: own}
        )
        self._ids.append(self._durably(lambda: self._create(template)))
        trial = Trial(len(self.trials), dict(point), seed, job, started, why)
        self.trials.append(trial)
        return trial

    def epoch(self, number: int, epoch: Epoch) -> None:
        """Writes an epoch; one that is there already stays as it is."""
        trial, trial_id = self.trials[number], self._ids[number]
        if trial.state.terminal or epoch.epoch in trial.epochs:
            return
        self._durably(lambda: self.storage.set_trial_user_attr(trial_id, f"{EPOCH}{epoch.epoch:05d}", epoch.plain()))
        value = epoch.value
        if value is not None:
            self._durably(lambda: self.storage.set_trial_intermediate_value(trial_id, epoch.epoch, value))
        trial.epochs[epoch.epoch] = epoch

    def end(self, number: int, state: State, cause: str, value: float | None = None) -> None:
        """Writes a trial's end; a trial that has ended stays as it is."""
        trial, trial_id = self.trials[number], self._ids[number]
        if trial.state.terminal:
            return
        if state is State.COMPLETE and value is None:
            raise ValueError(f"trial {number} can't be complete without a value")
        ended = time.time()
        end = {"state": state, "cause": cause, "value": value, "ended": ended}
        self._durably(lambda: self.storage.set_trial_user_attr(trial_id, END, end))
        trial.state, trial.cause, trial.value, trial.ended = state, cause, value, ended
        self._carry_out(trial_id, trial)

    def _carry_out(self, trial_id: int, trial: Trial) -> None:
        values = [trial.value] if trial.state is State.COMPLETE and trial.value is not None else None

        def write() -> None:
            # A write that failed may have been carried out all the same.
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                self.storage.set_trial_state_values(trial_id, OPTUNA_STATE[trial.state], values)

        self._durably(write)

    def accept_code(self, digest: str) -> None:
        """Notes that a person accepted other code than the search was started with, from here on."""
        accepted = [*self.accepted, {"code": digest, "trials": len(self.trials), "time": time.time()}]
        self._durably(lambda: self.storage.set_study_user_attr(self.study_id, ACCEPTED, accepted))
        self.accepted = accepted

    def redefine(self, identity: dict[str, Any]) -> None:
        """Notes that the search was extended; `identity` says by what."""
        self._durably(lambda: self.storage.set_study_user_attr(self.study_id, SEARCH, identity))
        self.identity = identity

    def _create(self, template: FrozenTrial) -> int:
        """A new trial's identifier; of one that an earlier, failed attempt created all the same, where there is one."""
        if self._uncertain:
            for frozen in self.storage.get_all_trials(self.study_id, deepcopy=False):
                if frozen._trial_id not in self._ids and frozen.user_attrs.get(TRIAL) == template.user_attrs[TRIAL]:
                    return frozen._trial_id
        return self.storage.create_new_trial(self.study_id, template_trial=template)

    def _durably(self, write: Callable[[], T]) -> T:
        """Carries out a write that may be repeated. A database that is away is waited for.

        Raises:
            Mistake: the record can't be written; nothing more is, from then on.
        """
        if self.failure:
            raise self.failure
        started, wait = time.monotonic(), 0.25
        while True:
            try:
                done = write()
            except OSError as error:  # of the journal, which may end in half a line now: a resume cuts it off
                self.failure = Mistake(
                    f"study: the record can't be written ({error.strerror}); "
                    + ("free space" if no_space(error) else "mend the storage")
                    + f" and go on with: medtune resume {self.name}. All that was recorded before stays."
                )
                raise self.failure from error
            except optuna.exceptions.StorageInternalError as error:
                away = time.monotonic() - started
                if away > PATIENCE:
                    self.failure = Mistake(
                        f"study: the record's database hasn't answered for {away:.0f} s; mend it and go on with: "
                        f"medtune resume {self.name}. All that was recorded before stays."
                    )
                    raise self.failure from error
                if not self._uncertain:
                    log.warning("the record's database doesn't answer; trying again for %.0f s", PATIENCE)
                self._uncertain = True
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                if self._uncertain:
                    log.warning("the record's database answers again after %.0f s", time.monotonic() - started)
                self._uncertain = False
                return done


def _from_frozen(frozen: FrozenTrial) -> Trial:
    own: dict[str, Any] = frozen.user_attrs[TRIAL]
    trial = Trial(frozen.number, own["point"], own["seed"], own["job"], own["started"], own["why"])
    for key, data in frozen.user_attrs.items():
        if key.startswith(EPOCH):
            epoch = Epoch.from_plain(data)
            trial.epochs[epoch.epoch] = epoch
    if END in frozen.user_attrs:
        end = frozen.user_attrs[END]
        trial.state, trial.cause, trial.value, trial.ended = (
            State(end["state"]),
            end["cause"],
            end["value"],
            end["ended"],
        )
    return trial


def journal_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, for looking at."""
    return [json.loads(line) for line in whole_lines(path)]
