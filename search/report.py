"""One page of searches and their finals: a self-contained HTML file, to be read, printed and sent; or the same without
pictures as Markdown, or every trial as a CSV table.

It shows no path, no image's name and no patient: settings are shown without folders, files and columns, causes as
`search.disclosure` lets them out, and of predictions only counts are shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from search import report_words
from search.console import duration
from search.disclosure import public_cause, public_label
from search.folder import SearchFolder
from search.interval_text import unreliable
from search.outputs import check_file, refuse_replacing
from search.record import State
from search.report_across import across
from search.report_page import page_of
from search.results_table import results_table
from search.trial_text import interval_or_why, origin, what_is_trained
from spaces.mistakes import Mistake
from spaces.words import counted
from trainables.files import write_text

TEMPLATES = {".html": "report.html.j2", ".htm": "report.html.j2", ".md": "report.md.j2"}
TABLE = ".csv"
EARLIER = re.compile(r"<title>medtune: |^Made .* by medtune |\Akind,search,", re.MULTILINE)
"""In the beginning of every report, of any kind."""
IMAGE = 'src="data:image/'  # what a thumbnail begins with in the page


def report(searches: Sequence[SearchFolder], output: Path, images: bool = False) -> Path:
    """Writes the page, whole or not at all.

    Args:
        searches: finished or not; with several of them a table over all comes first.
        output: the file, whose suffix says what it is: .html, .md or .csv.
        images: show the worst errors on validation as thumbnails, in HTML alone.

    Returns:
        The file.

    Raises:
        Mistake: no place to write, something else than a report in that place, or a search or a final that can't be
            read.
    """
    check_file("report", output)
    kind = output.suffix.lower()
    if images and kind not in (".html", ".htm"):
        raise Mistake(f"report: --images: thumbnails stand in an .html file alone, found -o {output}; leave one out.")
    if kind not in (TABLE, *TEMPLATES):
        raise Mistake(
            f"report: -o {output}: its suffix says what is written; expected .html, .md or .csv, found "
            f'"{output.suffix}".'
        )
    refuse_replacing("report", output, "report of medtune", EARLIER)
    if kind == TABLE:
        write_text(output.absolute(), results_table(searches))
        return output
    pages = [page_of(found, drawn=kind != ".md", images=images) for found in searches]
    environment = Environment(
        loader=PackageLoader("search"),
        autoescape=kind != ".md",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=report_words.value, short=report_words.short, hours=report_words.hours, key=report_words.key,
        words=report_words.words, label=report_words.label, sentence=report_words.sentence, cell=report_words.cell,
        duration=duration, cause=public_cause, unreliable=unreliable, origin=origin, public=public_label,
        times=lambda n: counted(n, "time"), count_of=counted,
    )  # fmt: skip
    environment.globals.update(what_is_trained=what_is_trained, State=State, interval_or_why=interval_or_why)
    text = environment.get_template(TEMPLATES[kind]).render(
        pages=pages,
        across=across(pages) if len(pages) > 1 else None,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        version=metadata.version("medtune"),
    )
    write_text(output.absolute(), text)
    return output


def holds_images(page: Path) -> bool:
    """Whether a report shows images of the dataset: not where they weren't asked for, or nothing was got wrong."""
    return IMAGE in page.read_text(encoding="utf-8")
