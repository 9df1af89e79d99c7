"""A person's mistakes, told together: each is one sentence that says what, where, expected, found, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Mistake(Exception):
    """One or several mistakes in what a person asked for. The command line prints one line each and exits with 2."""

    def __init__(self, *sentences: str, full: Iterable[str] = ()) -> None:
        """
        Args:
            sentences: what is printed.
            full: every sentence, where `sentences` only counts some of a kind; by default the same.
        """
        if not sentences:
            raise ValueError("a Mistake needs at least one sentence")
        self.sentences = sentences
        self.full = tuple(full) or sentences
        super().__init__("\n".join(sentences))

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.sentences, self.full)


def _again(sentences: tuple[str, ...], full: tuple[str, ...]) -> Mistake:
    return Mistake(*sentences, full=full)


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean "x"?`, or what is known where nothing is near. Starts with a space, so that it can be appended."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f' Did you mean "{close[0]}"?'
    return f" Known: {', '.join(options)}." if options else ""
