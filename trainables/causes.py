"""How a trial ends whose fine-tuning raised: its state, and the cause in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.memory_errors import out_of_memory

WHOSE = {"accelerator": "the accelerator's", "host": "this machine's"}


class Diverged(Exception):
    """The loss became infinite or not a number."""


class Infeasible(Exception):
    """This configuration can't run here, whatever the seed."""


@dataclass(frozen=True)
class End:
    """Of a trial that has no value."""

    state: Literal["failed", "infeasible"]
    cause: str
    memory: bool = False
    """Whether memory ran out: what the trial held has to be given back before the next one."""


def end_of(error: Exception) -> End | None:
    """The end of a trial for a cause that lies in its configuration alone; None for any other error, after which
    nothing is known of the state of the process."""
    if isinstance(error, Diverged):
        return End("failed", str(error))
    if isinstance(error, Infeasible):
        return End("infeasible", str(error))
    short = out_of_memory(error)
    if short is None:
        return None
    return End("infeasible", f"out of {WHOSE[short]} memory: {_first_line(error)}", memory=True)


def unknown(error: Exception) -> End:
    """The end of a trial for an error of which `end_of` knows nothing."""
    return End("failed", f"{type(error).__name__}: {error}")


def _first_line(error: Exception) -> str:
    """Without the place in torch's sources that its allocator begins with."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line.partition("DefaultCPUAllocator: ")[2] or line
