"""Files of weights, read by `medtune check` as a trial would read them.

A search doesn't: loading models takes its driver seconds, which its first trials need anyway, and where all of them end
for one reason so does the search.
"""

from __future__ import annotations

from search.console import Console
from spaces.backbone import backbone
from spaces.config import SearchConfig
from spaces.mistakes import Mistake


def look_at_weights(config: SearchConfig, console: Console) -> None:
    """Reads every file that the settings name. Pretrained weights aren't looked at: they may never be needed here.

    Raises:
        Mistake: of each backbone whose file can't be read or doesn't fit.
    """
    by_name = config.weights if isinstance(config.weights, dict) else dict.fromkeys(config.backbones, config.weights)
    files = {name: own for name, own in by_name.items() if own not in ("pretrained", "random")}
    if not files:
        return
    from trainables.backbones import build  # seconds

    problems: list[str] = []
    with console.working("reading weights", of="files") as progress:
        for done, (name, file) in enumerate(files.items()):
            try:
                build(name, weights=file, resolution=backbone(name).native)
            except Mistake as mistake:
                problems += mistake.sentences
            progress(done + 1, len(files))
    if problems:
        raise Mistake(*problems)
