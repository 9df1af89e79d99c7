"""Strikes trials of a real search, from outside of it: Python runs this file at the start of each of its processes.

It is copied as `sitecustomize.py` into a folder of PYTHONPATH, with `strikes.json` beside it: what befalls the worker
once it writes a trial's configuration, by the trial's number. `pids.txt` tells which process ran which trial.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOM = 100 << 20  # bytes that a trial may take more than its process has before


def strike(trial: int, what: str) -> None:
    if what == "device memory":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.\nGPU 0 has ...")
    if what == "host memory":
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + ROOM, resource.RLIM_INFINITY))
    elif what == "hang":
        time.sleep(100_000)
    elif what == "kill" and once(trial):
        # As soon as there is a checkpoint: a quick machine does the other epochs in less than any pause.
        checkpoints = HERE.parent / "runs" / "struck" / "trials" / f"{trial:05d}" / "checkpoints"

        def kill() -> None:
            while not list(checkpoints.glob("epoch-*")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()


def data_bytes() -> int:
    """What counts against RLIMIT_DATA of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) << 10


def once(trial: int) -> bool:
    try:
        (HERE / f"struck-{trial}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def watch() -> None:
    strikes = {int(trial): what for trial, what in json.loads((HERE / "strikes.json").read_text()).items()}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str):
            return
        found = re.search(r"/trials/(\d+)/\.config\.json\.", arguments[0])
        if found is None:
            return
        trial = int(found[1])
        with (HERE / "pids.txt").open("a") as pids:
            pids.write(f"{trial} {os.getpid()}\n")
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if trial in strikes:
            strike(trial, strikes[trial])

    sys.addaudithook(hook)


if any("default_worker" in word for word in sys.orig_argv):
    with contextlib.suppress(FileNotFoundError):
        watch()
