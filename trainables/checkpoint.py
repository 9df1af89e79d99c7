"""A trial's checkpoint: what is trained, the optimizer, the average, the random state, and what was reported.

A folder `epoch-0007` holds `tensors.safetensors` and `state.json`; the JSON carries the tensors' digest. It is written
whole or not at all, beside the others or in an object store (`trainables.object_store`). Until a trial's last epoch the
two newest are kept: a damaged one is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spaces.config import FORMAT
from trainables.files import as_new, folder_atomic, remove_partial
from trainables.object_store import linked
from trainables.sharding import held_like

log = logging.getLogger(__name__)
TENSORS, STATE = "tensors.safetensors", "state.json"


@dataclass
class Checkpoint:
    """State after `epoch` epochs. `tensors` are named `<kind>/<name>`; `state` is plain data."""

    epoch: int
    trial: str
    """Digest of the trial's configuration and data: a checkpoint of another trial is refused."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    def kind(self, kind: str) -> dict[str, Tensor]:
        """The tensors of one kind, without its name."""
        prefix = f"{kind}/"
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def add(self, kind: str, tensors: dict[str, Tensor]) -> None:
        """Copies: what is added may change before it is written."""
        self.tensors |= {
            f"{kind}/{name}": t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, t in tensors.items()
        }


def save(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Writes a checkpoint into `folder`, or where it is linked to, then removes all but the `keep` newest, and those of
    later epochs: they can't be used, or the trial had gone on from them. One process writes at a time."""
    name, store = f"epoch-{checkpoint.epoch:04d}", linked(folder)
    if store is None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder, "epoch-*")
        with folder_atomic(folder / name) as temporary:
            _write(temporary, checkpoint)
        for other in _superseded([one.name for one in _newest_first(folder)], name, keep):
            shutil.rmtree(folder / other, ignore_errors=True)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            _write(Path(temporary), checkpoint)
            store.put(Path(temporary), name, STATE)
        for other in _superseded(store.names(STATE), name, keep):
            store.remove(other, STATE)
    return folder / name


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    with as_new(folder / TENSORS):
        save_file(checkpoint.tensors, folder / TENSORS)
    state = {
        "format": FORMAT,
        "epoch": checkpoint.epoch,
        "trial": checkpoint.trial,
        "tensors": _digest(folder / TENSORS),
        "state": checkpoint.state,
    }
    state["self"] = _self_digest(state)
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def _superseded(names: Sequence[str], newest: str, keep: int) -> list[str]:
    """Which of several checkpoints go, now that `newest` is there."""
    kept = sorted((name for name in names if name <= newest), reverse=True)[:keep]
    return [name for name in names if name not in kept]


def load_newest(folder: Path, trial: str) -> Checkpoint | None:
    """The newest checkpoint in `folder`, or where it is linked to, that is whole and of this trial; None where there is
    none."""
    store = linked(folder)
    names = [one.name for one in _newest_first(folder)] if store is None else sorted(store.names(STATE), reverse=True)
    for name in names:
        try:
            if store is None:
                return load(folder / name, trial)
            with tempfile.TemporaryDirectory() as temporary:
                store.get(name, Path(temporary) / name)
                return load(Path(temporary) / name, trial)
        except DamagedCheckpoint as damage:
            log.warning("checkpoint %s is left aside: %s", name, damage)
    return None


class DamagedCheckpoint(Exception):
    """A checkpoint that can't be used, and why."""


def load(path: Path, trial: str | None = None) -> Checkpoint:
    """A checkpoint, verified against its digests.

    Raises:
        DamagedCheckpoint: truncated, altered, of another format, or of another trial.
    """
    try:
        data = json.loads((path / STATE).read_text(encoding="utf-8"))
        found = data.pop("self")
        if found != _self_digest(data):
            raise DamagedCheckpoint("its state doesn't have the digest it was written with")
        if data["format"] != FORMAT:
            raise DamagedCheckpoint(f"format {data['format']}, expected {FORMAT}")
        if trial is not None and data["trial"] != trial:
            raise DamagedCheckpoint("it belongs to another configuration, or to other data")
        if _digest(path / TENSORS) != data["tensors"]:
            raise DamagedCheckpoint("its tensors don't have the digest they were written with")
        tensors = load_file(path / TENSORS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"can't be read ({type(error).__name__})") from error
    return Checkpoint(data["epoch"], data["trial"], tensors, data["state"])


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's generators, as tensors."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    """The optimizer's state as tensors named `<parameter>/<what>`; `names` maps id(parameter) to its name."""
    return {
        f"{names[id(parameter)]}/{what}": value
        for parameter, values in optimizer.state.items()
        for what, value in values.items()
        if isinstance(value, Tensor)
    }


def set_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], names: dict[int, str]) -> None:
    """Puts back what `optimizer_tensors` gave."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[id(parameter)]}/"
            values = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            # AdamW keeps its step count on the CPU unless it is capturable or fused.
            on_device = bool(group.get("fused") or group.get("capturable"))
            if values:
                optimizer.state[parameter] = {
                    what: value.clone()
                    if what == "step" and not on_device
                    else held_like(value.to(parameter.device, copy=True), parameter)
                    for what, value in values.items()
                }


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("epoch-*") if p.is_dir()), key=lambda p: p.name, reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _self_digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
