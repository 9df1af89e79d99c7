"""Weights out of a TorchScript archive, the layout of OpenAI's own CLIP files, with nothing of it executed.

Such an archive is a zip file: `data.pkl` holds the module's attributes as a pickle, in which classes are named that
`code/` defines, and `data/<key>` the tensors' bytes. torch.jit.load would compile that code; here the classes become
plain records of their attributes, and of functions only the ones that rebuild tensors and lists are known.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.backbones.vit import State

KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.jit._pickle", "restore_type_tag"): lambda value, of: value,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool")},
    ("torch.jit._pickle", "build_tensorlist"): list,
}
STORAGES = {"HalfStorage": torch.float16, "FloatStorage": torch.float32, "BFloat16Storage": torch.bfloat16,
            "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
            "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
            "BoolStorage": torch.bool}  # fmt: skip


class Record:
    """An object of a class that the archive's own code defines: its attributes and nothing else."""

    def __setstate__(self, state: Any) -> None:
        self.attributes: dict[str, Any] = state if isinstance(state, dict) else {}


def is_torchscript(path: Path) -> bool:
    """Whether a file is such an archive: what torch.save writes has no `constants.pkl`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> State:
    """Parameters and buffers by the names that the module's state dict has.

    Raises:
        pickle.UnpicklingError: something else than modules, tensors and plain values is in it.
        RuntimeError: it is cut short.
    """
    archive = torch._C.PyTorchFileReader(str(path))
    root = _Unpickler(archive).load()
    return dict(_tensors(root, ""))


def _tensors(record: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(record, Record):
        raise pickle.UnpicklingError("not a module")
    for name, value in getattr(record, "attributes", {}).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Record):
            yield from _tensors(value, f"{prefix}{name}.")


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: Any) -> None:
        super().__init__(io.BytesIO(archive.get_record("data.pkl")))
        self.archive = archive
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return Record
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        raise pickle.UnpicklingError(f"{module}.{name} is in it")

    def persistent_load(self, pid: Any) -> Tensor:
        """pid: ("storage", type, key, device, elements)."""
        _, dtype, key, _, elements = pid
        if key not in self.storages:
            storage = self.archive.get_storage_from_record(f"data/{key}", elements, dtype)
            self.storages[key] = torch.empty(0, dtype=dtype).set_(storage._typed_storage())
        return self.storages[key]


def _rebuilt(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return flat.as_strided(tuple(size), tuple(stride), offset)
