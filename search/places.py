"""What of an export belongs to this machine alone: folders, and the reader's options, which name files and columns.

An export may be sent; its places stay behind, in one file for all exports of a folder. They are written before the
export is, under a key of its own, so that an interrupted export leaves the one before as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.folder import to_yaml
from spaces.mistakes import Mistake
from spaces.strict import digest, read_yaml
from trainables.files import write_text

FILE = "medtune.local.yaml"
HEADER = (
    "# Where the data of the exports in this folder lie on this machine: needed to run them here, not to be sent.\n"
)
WEIGHTS_FILE = "file"
Places = dict[str, Any]


def divide(data: dict[str, Any]) -> tuple[dict[str, Any], Places]:
    """An export as plain data, without its places, and these."""
    dataset, config = dict(data["dataset"]), dict(data["config"])
    places = {"root": dataset.pop("root"), "options": dataset.pop("options")}
    places |= {name: data[name] for name in ("storage", "cache")}
    if config["weights"] not in ("pretrained", "random"):
        places["weights"], config["weights"] = config["weights"], WEIGHTS_FILE
    sent = {name: value for name, value in data.items() if name not in ("storage", "cache")}
    return {**sent, "dataset": dataset, "config": config}, places


def join(data: dict[str, Any], places: Places) -> dict[str, Any]:
    """What `divide` divided. What a person has written into the export itself wins."""
    own = {name: places[name] for name in ("root", "options") if name in places}
    joined: dict[str, Any] = {name: places[name] for name in ("storage", "cache") if name in places} | data
    joined["dataset"] = {**own, **data["dataset"]}
    if data["config"].get("weights") == WEIGHTS_FILE and "weights" in places:
        joined["config"] = {**data["config"], "weights": places["weights"]}
    return joined


def keep(folder: Path, data: dict[str, Any], places: Places) -> None:
    """Notes the places of an export that is about to be written into `folder`."""
    known = _known(folder)
    if known.get(_key(data)) != places:
        write_text(folder / FILE, HEADER + to_yaml({**known, _key(data): places}))


def complete(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """An export that was read from `path`, with its places.

    Raises:
        Mistake: they aren't known here, and stand in the export neither.
    """
    if not all(isinstance(data.get(name), dict) for name in ("dataset", "config", "found")):
        return data  # its own mistakes are told when it is parsed
    joined = join(data, _known(path.parent).get(_key(data), {}))
    lacking = [f"dataset.{name}" for name in ("root",) if name not in joined["dataset"]]
    lacking += [name for name in ("storage", "cache") if name not in joined]
    lacking += ["config.weights (the official file)"] if joined["config"].get("weights") == WEIGHTS_FILE else []
    if lacking:
        raise Mistake(
            f"{path}: exports carry no folders, and {FILE} beside it doesn't know them for this one; write into it: "
            f"{', '.join(lacking)}, and dataset.options where the reader was given any."
        )
    return joined


def _known(folder: Path) -> dict[str, Places]:
    if not (folder / FILE).exists():
        return {}
    known = read_yaml(folder / FILE)
    if not isinstance(known, dict) or not all(isinstance(places, dict) for places in known.values()):
        raise Mistake(f"{folder / FILE}: isn't what medtune export wrote; delete it, and export again.")
    return known


def _key(data: dict[str, Any]) -> str:
    found = data["found"]
    return f"{found.get('search')}, trial {found.get('trial')}, {digest(found)[:12]}"
