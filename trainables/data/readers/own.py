"""A person's own reader, named in the settings as `package.module:name`."""

from __future__ import annotations

import importlib
import re
from typing import TypeVar

from spaces.mistakes import Mistake, nearest

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Whether a reader's name is that of somebody's own."""
    return ":" in name


def own_reader(name: str, kind: type[T]) -> T:
    """What `name` stands for in its module, which this process must be able to import.

    Args:
        name: `package.module:name`.
        kind: what it has to be: trainables.data.readers.Reader.

    Raises:
        Mistake: no such module or name, an error in the module, or something else than a reader.
    """
    where = f'dataset.reader: "{name}"'
    if not NAME.fullmatch(name):
        raise Mistake(f"{where}: expected package.module:name, such as my_readers.skin:reader.")
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise Mistake(f"{where}: {module_name} imports {error.name}, which isn't installed; install it.") from None
        raise Mistake(
            f"{where}: there is no module {module_name}; install it, or name its folder in PYTHONPATH."
        ) from None
    except Exception as error:  # a person's module may raise anything
        raise Mistake(
            f"{where}: {module_name} can't be imported ({type(error).__name__}: {error}); correct it."
        ) from error
    found = getattr(module, attribute, None)
    if found is None:
        names = [n for n, value in vars(module).items() if isinstance(value, kind)]
        raise Mistake(f'{where}: {module_name} has no "{attribute}".{nearest(attribute, names)}')
    if not isinstance(found, kind):
        raise Mistake(
            f"{where}: expected a trainables.data.readers.Reader, found {type(found).__name__}; see docs/extending.md."
        )
    return found
