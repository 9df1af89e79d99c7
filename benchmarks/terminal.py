"""README's picture of a search in a terminal: the live table as it stood at a moment of a real search's record.

python -m benchmarks.terminal demo/runs/digits picture.svg --at 0.7
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import rich.console

from search.console import Console
from search.folder import SearchFolder, find
from search.record import State, Trial
from search.view import View

WIDTH, HEIGHT = 118, 30  # of the window, in characters


def as_of(trials: Sequence[Trial], moment: float) -> list[Trial]:
    """The record at a moment in Unix seconds."""
    found = []
    for trial in trials:
        if trial.started > moment:
            continue
        if trial.ended is not None and trial.ended <= moment:
            found.append(trial)
        else:
            epochs = {number: epoch for number, epoch in trial.epochs.items() if epoch.time <= moment}
            found.append(replace(trial, state=State.RUNNING, cause="", value=None, ended=None, epochs=epochs))
    return found


def picture(found: SearchFolder, share: float) -> str:
    """As SVG, without fonts from elsewhere.

    Args:
        share: of the search's time at which it is looked at, in (0, 1].
    """
    study = found.study()
    begin = min(trial.started for trial in study.trials)
    end = max(trial.ended or 0.0 for trial in study.trials)
    moment = begin + share * (end - begin)
    with Path(os.devnull).open("w") as nowhere:
        console = Console(nowhere)
        console.rich = rich.console.Console(
            record=True, width=WIDTH, height=HEIGHT, file=nowhere, force_terminal=True, color_system="truecolor",
            markup=False, highlight=False,
        )  # fmt: skip
        console.live = True
        driver: Any = SimpleNamespace(
            config=found.config(),
            direction=study.identity["direction"],
            study=SimpleNamespace(trials=as_of(study.trials, moment)),
        )
        view = View(driver, console)
        view.before, view.started = set(), time.monotonic() - (moment - begin)
        console.rich.print("$ medtune search search.yaml")
        console.rich.print(view.render())
        drawn = console.rich.export_svg(title=f"medtune: {found.config().name}", unique_id="medtune")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", help="a search's name or folder")
    parser.add_argument("output", type=Path, help="the .svg file")
    parser.add_argument("--at", type=float, default=0.7, help="share of the search's time (default: 0.7)")
    options = parser.parse_args(arguments)
    options.output.write_text(picture(find(options.search), options.at), encoding="utf-8")


if __name__ == "__main__":
    main()
