"""How the tests are dealt to the processes of `make test`, and how long each may measure what trials cost."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file is meant to stay in one process, with the fixtures that its tests share.

    It doesn't yet: xdist deals the tests singly all the same, so that fixtures are made in both processes.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(Path(__file__).parent))))


@pytest.fixture(scope="session", autouse=True)
def short_probes() -> Iterator[None]:
    """`medtune check` measures for a second instead of twenty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.cost.SECONDS", 1.0)
        yield
