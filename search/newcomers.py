"""Nodes that join a cluster while a search runs, as all do where it grows from nothing: each is looked at, too."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from search.cluster import Node
from spaces.mistakes import Mistake

log = logging.getLogger(__name__)


class Newcomers:
    """Looks at each node that joins, beside the search, which goes on meanwhile."""

    def __init__(self, there: Sequence[Node], look: Callable[[Node], list[str]], name: str) -> None:
        """
        Args:
            there: nodes that were looked at before the start.
            look: says what is wrong on a node, in sentences. It may take its time.
            name: of the search.
        """
        self.look, self.name = look, name
        self.known = {node.id for node in there}
        self.wrong: dict[str, list[str]] = {}
        """Sentences, by the node's id."""

    def __call__(self, there: Sequence[Node]) -> None:
        """Takes note of the nodes that are there now.

        Raises:
            Mistake: on one of them trials would fail.
        """
        for node in there:
            if node.id not in self.known:
                self.known.add(node.id)
                threading.Thread(target=self._look, args=(node,), daemon=True).start()
        sentences = [sentence for node in there for sentence in self.wrong.get(node.id, ())]
        if sentences:
            raise Mistake(
                *sentences,
                "The node joined while the search ran, and trials would fail there. Nothing is lost: mend it or take "
                f"it out, and go on with medtune resume {self.name}.",
            )

    def _look(self, node: Node) -> None:
        try:
            self.wrong[node.id] = self.look(node)
        except Exception as error:  # the node, or the whole cluster, has gone meanwhile
            log.warning("%s couldn't be looked at: %s", node.name, error)
