"""A search's own folder: what lies in it, and how one is found."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from search.study import Study, database_has, existing_storage, has_already, open_storage
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.strict import read_yaml
from trainables.files import write_text

if TYPE_CHECKING:
    from search.plan import Plan
    from trainables.data.prepared import Prepared

SETTINGS, DATA, LOG = "search.yaml", "data", "log.txt"
HEADER = """\
# Settings of this search, resolved. `medtune resume` reads them again: more trials, another time limit, other resources
# may be written here, or given by `medtune resume NAME --set budget.trials=100`; what changes the meaning of the search
# is refused.
"""


@dataclass(frozen=True)
class SearchFolder:
    """An existing search."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / LOG

    def config(self) -> SearchConfig:
        file = self.path / SETTINGS
        return SearchConfig.parse(read_yaml(file), str(file))

    def prepared(self) -> Prepared:
        from trainables.data.prepared import Prepared  # scikit-learn and more, which looking at a search doesn't need

        return Prepared.load(self.path / DATA)

    def study(self) -> Study:
        """The record as it is now, to be read."""
        config = self.config()
        return Study.read(existing_storage(self.path, config.study), config.name)


def storage_folder() -> Path:
    """Where searches are looked for by their names."""
    return Path(os.environ.get("MEDTUNE_STORAGE", "runs"))


def find(name_or_dir: str) -> SearchFolder:
    """A search by its folder, or by its name in `runs` or in the folder that MEDTUNE_STORAGE names.

    Raises:
        Mistake: there is none.
    """
    storage = storage_folder()
    for path in (Path(name_or_dir), storage / name_or_dir):
        if (path / SETTINGS).is_file() and (path / DATA).is_dir():
            return SearchFolder(path.resolve())
    raise Mistake(
        f'there is no search "{name_or_dir}": neither a folder with a {SETTINGS}, nor one of that name in '
        f"{storage.resolve()}; "
        "give its folder, or set MEDTUNE_STORAGE."
    )


def create(plan: Plan, identity: dict[str, Any]) -> SearchFolder:
    """The folder of a new search with its settings, data and empty record: there whole, or not at all.

    Raises:
        Mistake: there is a search of that name.
    """
    config, path = plan.config, plan.folder
    if path.exists():
        raise Mistake(_there_already(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{config.name}."))
    try:
        temporary.chmod(0o755)
        (temporary / SETTINGS).write_text(HEADER + to_yaml(config.plain()), encoding="utf-8")
        plan.prepared.save(temporary / DATA)
        storage = open_storage(temporary, config.study)
        study = Study.create(storage, config.name, plan.direction, identity)
        try:
            temporary.rename(path)
        except BaseException as error:
            storage.delete_study(study.study_id)  # in a database it would outlive its folder
            if isinstance(error, OSError) and path.exists():  # another process was quicker
                raise Mistake(_there_already(path)) from None
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return SearchFolder(path)


def discard_empty(found: SearchFolder) -> None:
    """Takes back a search that has no trial, with its record, which in a database would outlive the folder."""
    config = found.config()
    storage = open_storage(found.path, config.study)
    study = Study.read(storage, config.name)
    if not study.trials:
        storage.delete_study(study.study_id)
        shutil.rmtree(found.path)


def mend_data(found: SearchFolder, prepared: Prepared) -> bool:
    """Whether what a search keeps of its data was damaged, and had to be written again.

    Args:
        prepared: what the data give now, of which it was made sure that it is what they gave when the search began.
    """
    with suppress(Mistake):
        if found.prepared().digests == prepared.digests:
            return False
    prepared.save(found.path / DATA)
    return True


def write_settings(found: SearchFolder, config: SearchConfig) -> None:
    """The settings that a resume goes on with."""
    write_text(found.path / SETTINGS, HEADER + to_yaml(config.plain()))


def taken(config: SearchConfig) -> str | None:
    """A sentence: why no new search can be made under a name, or None where one can.

    Raises:
        Mistake: the record's storage can't be opened.
    """
    path = Path(config.storage).absolute() / config.name
    if path.exists():
        return _there_already(path)
    return has_already(config.name) if config.study and database_has(config.study, config.name) else None


def _there_already(path: Path) -> str:
    if not (path / SETTINGS).is_file():
        return f"name: {path} is something else than a search; choose another name, such as --set name={path.name}-2."
    return (
        f'there is a search "{path.name}" in {path.parent}; go on with it by "medtune resume {path}", or choose '
        "another name."
    )


def to_yaml(data: Any) -> str:
    """Plain data as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()
