"""Several searches side by side in a report: a table of searches by backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.final_result import Configuration
from search.leaderboard import Leader
from search.report_page import Page


@dataclass(frozen=True)
class Cell:
    """A search's row and a backbone's column of the table over several searches."""

    leader: Leader
    test: Configuration | None


def across(pages: Sequence[Page]) -> dict[str, Any]:
    """Searches by backbones: the best value of each, and the test's where a final was made of it."""
    tests: dict[tuple[str, str, str], tuple[int, Configuration]] = {}
    for page in pages:
        for final in page.finals:
            for configuration in final.configurations:
                key = (
                    final.result["digests"]["split"],
                    configuration.report["found"]["search"],
                    configuration.report["backbone"],
                )
                opening = final.result["opening"]["opening"]
                if key not in tests or opening < tests[key][0]:  # the opening that knew least
                    tests[key] = (opening, configuration)
    columns = list(dict.fromkeys(name for page in pages for name in page.config.backbones))
    rows = []
    for page in pages:
        leaders = {leader.backbone: leader for leader in page.leaders}
        cells = [
            Cell(leaders[name], tests.get((page.identity["split"], page.config.name, name), (0, None))[1])
            if name in leaders
            else None
            for name in columns
        ]
        rows.append({"page": page, "cells": cells})
    return {"columns": columns, "rows": rows}
