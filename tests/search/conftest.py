"""Real searches on real digits, small: run by the command line in processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from search.cli import main

SETTINGS = """\
name: digits
dataset: {reader: folder, root: images, policy: digits}
backbones: [dinov2_tiny, mae_tiny]
weights: random
space:
  batch_size: 32
  head: {choice: [linear, attentive]}
  head_lr: {float: [1.0e-3, 1.0e-2], log: true}
budget: {trials: 8, epochs: 4}
storage: STORAGE
"""


QUICK = (
    "check",
    "status",
    "export",
    "sync",
    "report",
    "predict",
    "final",
    "ls",
    "diff",
    "prune",
    "cancel",
)  # run here: a process of its own costs 6 s of imports


def medtune(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command line with its output; commands that start no Ray run in this process, by the same function."""
    words = [str(a) for a in arguments]
    if words and words[0] in QUICK and "--workers" not in words and not more:
        return _here(words)
    return subprocess.run(
        [sys.executable, "-m", "search.cli", *map(str, arguments)], capture_output=True, text=True, timeout=280, **more
    )


def _here(words: list[str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        kept = os.dup(1)
        os.dup2(out.fileno(), 1)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = main(words)
                except SystemExit as end:
                    code = int(end.code or 0)
                out.flush()
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def succeed(*arguments: object, **more: Any) -> str:
    done = medtune(*arguments, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_digits(folder: Path, count: int) -> None:
    digits = load_digits()
    for index in range(count):
        path = folder / str(digits.target[index]) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * (255 / 16)).round().astype("uint8")).save(path)


def status(folder: Path) -> dict[str, Any]:
    return json.loads(succeed("status", folder, "--json"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 500 digits in `images`."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "images", 500)
    return folder


@pytest.fixture
def settings(digits: Path, tmp_path: Path) -> Path:
    """A search's settings, with a storage of its own."""
    path = tmp_path / "search.yaml"
    path.write_text(SETTINGS.replace("STORAGE", str(tmp_path / "runs")).replace("images", str(digits / "images")))
    return path


class Killable:
    """A command and everything it starts, Ray's daemons and workers included."""

    def __init__(self, *arguments: object) -> None:
        self.mark = f"MEDTUNE_TEST_MARK={uuid.uuid4()}"
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "search.cli", *map(str, arguments)],
            env={**os.environ, name: value},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def all(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if self.mark.encode() in Path(f"/proc/{process.pid}/environ").read_bytes():
                    found.append(process)
            except OSError:
                continue
        return found

    def kill(self) -> None:
        """SIGKILL to every process, until none is left."""
        while left := [p for p in self.all() if p.status() != psutil.STATUS_ZOMBIE]:
            for process in left:
                try:
                    process.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            self.process.poll()
            time.sleep(0.05)
        self.process.wait()


@pytest.fixture
def killable() -> Iterator[Any]:
    started: list[Killable] = []

    def start(*arguments: object) -> Killable:
        started.append(Killable(*arguments))
        return started[-1]

    yield start
    for command in started:
        command.kill()


@pytest.fixture(scope="session")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search of 8 trials, with MLflow's mirror beside it. Not to be changed."""
    home = tmp_path_factory.mktemp("finished")
    path = home / "search.yaml"
    path.write_text(SETTINGS.replace("STORAGE", str(home / "runs")).replace("images", str(digits / "images")))
    output = succeed("search", path)
    (home / "output.txt").write_text(output)
    return home / "runs" / "digits"
