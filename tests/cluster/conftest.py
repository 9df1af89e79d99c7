"""Tests on hosts of their own are slow ones, and need root to make the network."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
            if os.getuid() != 0:
                item.add_marker(pytest.mark.skip(reason="network namespaces need root"))
