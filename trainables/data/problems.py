"""Collects what is wrong with a dataset, so that all of it is told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spaces.mistakes import Mistake

SHOWN = 10  # of a kind are printed; then a count


class Incomplete(Mistake):
    """What is wrong with a dataset, some of whose rows can be used in spite of it."""

    def __init__(self, *sentences: str, full: Iterable[str], labelled: Mapping[str, str]) -> None:
        """`labelled`: paths relative to root of the images that can be used, and how each is labelled."""
        super().__init__(*sentences, full=full)
        self.labelled = labelled


class Problems:
    """Sentences by kind, in the order in which each kind was first met."""

    def __init__(self, where: str) -> None:
        """`where` begins the sentence that counts what isn't printed."""
        self.where = where
        self._sentences: dict[str, list[str]] = {}

    def add(self, kind: str, sentence: str) -> None:
        """One more problem. `kind` names it in the plural, as in "repeated paths"."""
        self._sentences.setdefault(kind, []).append(sentence)

    def __len__(self) -> int:
        return sum(map(len, self._sentences.values()))

    @property
    def full(self) -> list[str]:
        """Every sentence."""
        return [sentence for sentences in self._sentences.values() for sentence in sentences]

    @property
    def shown(self) -> list[str]:
        """The first ten sentences of each kind, and how many more there are."""
        shown: list[str] = []
        for kind, sentences in self._sentences.items():
            shown += sentences[:SHOWN]
            if len(sentences) > SHOWN:
                shown.append(f"{self.where}: {len(sentences) - SHOWN} more {kind} ({len(sentences)} in all).")
        return shown

    def raise_if_any(self, labelled: Mapping[str, str] | None = None) -> None:
        """
        Args:
            labelled: images that can be used all the same; see `Incomplete`.

        Raises:
            Mistake: with what is `shown`; its `full` are all sentences.
        """
        if self._sentences:
            raise Incomplete(*self.shown, full=self.full, labelled=labelled or {})
