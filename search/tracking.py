"""Keeps MLflow like a search's record, which is only read: one code path while it runs, later, and again."""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage

from search.disclosure import SearchFacts, facts, public_uri
from search.mirror import Mirror
from search.record import Trial
from search.study import Study, existing_storage
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.strict import read_yaml

log = logging.getLogger(__name__)

POLL, LONGEST_WAIT = 2.0, 30.0  # seconds
DATABASES = {"postgresql", "mysql", "mssql"}  # besides SQLite, those that MLflow can keep runs in


def search_facts(folder: Path) -> SearchFacts:
    """Of the search in `folder`.

    Raises:
        Mistake: there is none, or its settings can't be read.
    """
    config = settings(folder)
    return facts(config, Study.read(existing_storage(folder, config.study), config.name).identity)


def settings(folder: Path) -> SearchConfig:
    """Of the search in `folder`, as they are now."""
    file = folder / "search.yaml"
    return SearchConfig.parse(read_yaml(file), str(file))


def local_uri(storage: Path) -> str:
    """MLflow's tracking URI of the searches in `storage`."""
    return f"sqlite:///{storage.absolute()}/mlflow.db"


def tracking_uri(folder: Path, setting: str) -> str:
    """Where the search in `folder` is mirrored, by its setting `mlflow`.

    Raises:
        Mistake: nowhere, or in a database without a server before it.
    """
    if setting == "off":
        raise Mistake(
            f'mlflow is off for the search "{folder.name}"; '
            'write "mlflow: local", or the address of a server, into its search.yaml first.'
        )
    refuse_database(setting)
    return local_uri(folder.parent) if setting == "local" else setting


def refuse_database(uri: str) -> None:
    """MLflow's client would write runs into a database, and their files, which have no place there, into the folder
    that a command happens to be run in.

    Raises:
        Mistake: the URI is of a database that several machines may use.
    """
    if urllib.parse.urlsplit(uri).scheme.split("+")[0] in DATABASES:
        raise Mistake(
            f'mlflow: "{public_uri(uri)}" is a database, in which MLflow keeps no files (models, figures); start '
            "mlflow server with it as --backend-store-uri and a folder as --artifacts-destination (docs/cluster.md), "
            "and give that server's address."
        )


def reachable(uri: str, seconds: float = 5) -> None:
    """Whether something answers at a tracking URI, without importing MLflow.

    Args:
        seconds: after which it is given up, name resolution included.

    Raises:
        Mistake: nothing does.
    """
    refuse_database(uri)
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme in ("", "file"):
        raise Mistake(
            f'mlflow: "{public_uri(uri)}" is a folder, which MLflow no longer writes to; '
            'use "local", or the address of a server.'
        )
    if parts.hostname is None or parts.scheme not in ("http", "https"):
        return  # a file, or a service whose address only MLflow's own plugins know
    answers: list[str] = [f"no answer within {seconds:g} s"]
    thread = threading.Thread(target=lambda: answers.append(_ask(uri, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    if answers[-1]:
        raise Mistake(
            f"mlflow: nothing can be sent to {public_uri(uri)} ({answers[-1]}); start the server or correct the "
            'address, or set "mlflow: off" and sync later: put the address into search.yaml, then "medtune sync".'
        )


def _ask(uri: str, seconds: float) -> str:
    """What is wrong, or the empty string. A refusal is an answer too: MLflow's client has credentials of its own."""
    try:
        with urllib.request.urlopen(f"{public_uri(uri).rstrip('/')}/health", timeout=seconds):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}" if error.code >= 500 else ""
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error)


def being_driven(folder: Path) -> bool:
    """Whether a driver runs the search. Only looks: a driver that starts at this moment isn't kept from its lock longer
    than this call takes."""
    try:
        lock = os.open(folder / "study.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextmanager
def only_mirror(folder: Path, *, wait: bool) -> Iterator[None]:
    """Holds the lock of the search's mirror, so that no run is made twice.

    Raises:
        Mistake: another process holds it, and `wait` is false.
    """
    try:
        lock = FileLock(folder / "sync.lock").acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise Mistake(
            f'another process is bringing MLflow up to date with "{folder.name}"; there is nothing to do but to wait.'
        ) from None
    with lock:
        yield


class _Record:
    """Reads a search's record again and again; a journal from where it was read to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._storage: BaseStorage | None = None

    def read(self) -> tuple[SearchFacts, list[Trial]]:
        config = settings(self.folder)
        try:
            if self._storage is None:
                self._storage = existing_storage(self.folder, config.study)
            study = Study.read(self._storage, config.name)
        except Exception:
            self._storage = None
            raise
        return facts(config, study.identity), study.trials


def sync_once(folder: Path, left_out: Callable[[str], None] = log.warning) -> tuple[str, int]:
    """Brings MLflow up to date with the search in `folder`.

    Args:
        left_out: called with a sentence for each thing that isn't sent since it is missing or damaged.

    Returns:
        The address without credentials, and how many trials are there.

    Raises:
        Mistake: MLflow is off, can't be reached or doesn't take it, or another process is doing it.
    """
    uri = tracking_uri(folder, settings(folder).mlflow)
    reachable(uri)
    with only_mirror(folder, wait=not being_driven(folder)):
        driven = being_driven(folder)
        search, trials = _Record(folder).read()
        try:
            mirror = Mirror(uri, search, folder)
            mirror.update(trials, driven=driven)
        except Exception as error:
            raise Mistake(
                f"MLflow at {public_uri(uri)} failed ({_first_line(error, uri)}); try again: nothing is sent twice."
            ) from error
    for sentence in mirror.left_out:
        left_out(sentence)
    return public_uri(uri), len(trials)


def follow(folder: Path, *, poll: float = POLL, longest_wait: float = LONGEST_WAIT, patience: float = 600) -> bool:
    """Keeps MLflow up to date until no driver runs the search and everything is there. Errors of MLflow or of the
    record's storage are logged once for each outage, and tried again.

    Args:
        poll: seconds between two looks at the record.
        longest_wait: seconds between two attempts in an outage; the first ones come sooner.
        patience: seconds for which an outage is borne after the driver has gone.

    One at a time does so, and at most one more waits for it: a search that is killed and resumed often starts many.

    Returns:
        Whether everything is in MLflow, or another process sees to it; if not, `medtune sync` completes it later.

    Raises:
        Mistake: MLflow is off for this search.
    """
    uri = tracking_uri(folder, settings(folder).mlflow)
    try:
        next_one = FileLock(folder / "sync.next.lock").acquire(timeout=0)
    except Timeout:
        return True  # one waits already, and will see all that this one would
    with next_one:
        lock = FileLock(folder / "sync.lock").acquire()
    with lock:
        return _follow(folder, uri, poll, longest_wait, patience)


def _follow(folder: Path, uri: str, poll: float, longest_wait: float, patience: float) -> bool:
    record, mirror = _Record(folder), None
    wait, since, trouble = poll, 0.0, False
    seen_driven, told = time.monotonic(), set[str]()
    while True:
        if not folder.is_dir():
            log.warning("the search's folder is gone; nothing more to mirror")
            return False
        driven = being_driven(folder)  # asked first: what is read after its driver has gone is complete
        if driven:
            seen_driven = time.monotonic()
        try:
            search, trials = record.read()
            mirror = mirror or Mirror(uri, search, folder)
            mirror.search = search
            mirror.update(trials, driven=driven)
        except Exception as error:
            if not since:
                since, trouble, wait = time.monotonic(), True, min(poll, 1.0)
                log.warning("can't mirror to %s (%s); trying again", public_uri(uri), _first_line(error, uri))
            if not driven and time.monotonic() - seen_driven > patience:
                log.warning('giving up; "medtune sync %s" brings MLflow up to date later', folder.name)
                return False
            time.sleep(wait)
            wait = min(2 * wait, longest_wait)
            continue
        if since:
            log.warning("up to date again after %.0f s", time.monotonic() - since)
            since = 0.0
        for sentence in mirror.left_out:
            if sentence not in told:
                log.warning("not sent: %s", sentence.replace(f"{folder}/", ""))
                told.add(sentence)
        if not driven:
            if not trouble:
                return True
            # A call that was given up may have been carried out since: look once more.
            mirror.forget()
            trouble = False
            continue
        time.sleep(poll)


def start_mirror(folder: Path) -> None:
    """MLflow's mirror of the record, in a process of its own that outlives this one until it is up to date."""
    with (folder / "mlflow.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "search.cli", "sync", str(folder), "--follow"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _first_line(error: Exception, uri: str) -> str:
    """An error for this machine's log."""
    text = str(error).replace(uri, public_uri(uri)).splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
