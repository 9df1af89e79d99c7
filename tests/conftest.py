"""How long the tests may measure what trials cost."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def short_probes() -> Iterator[None]:
    """`medtune check` measures for a second instead of twenty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.cost.SECONDS", 1.0)
        yield
