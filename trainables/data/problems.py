"""Collects what is wrong with a dataset, so that all of it is told at once."""

from __future__ import annotations

from spaces.mistakes import Mistake

SHOWN = 10  # of a kind in full; then a count


class Problems:
    """Sentences by kind, in the order in which each kind was first met."""

    def __init__(self, where: str) -> None:
        """`where` begins the sentence that counts what isn't shown."""
        self.where = where
        self._sentences: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, sentence: str) -> None:
        """One more problem. `kind` names it in the plural, as in "repeated paths"."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        shown = self._sentences.setdefault(kind, [])
        if len(shown) < SHOWN:
            shown.append(sentence)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def raise_if_any(self) -> None:
        """
        Raises:
            Mistake: with the first ten sentences of each kind, and how many more there are.
        """
        sentences: list[str] = []
        for kind, shown in self._sentences.items():
            sentences += shown
            if self._counts[kind] > len(shown):
                hidden = self._counts[kind] - len(shown)
                sentences.append(f"{self.where}: {hidden} more {kind} ({self._counts[kind]} in all).")
        if sentences:
            raise Mistake(*sentences)
