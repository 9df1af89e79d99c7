"""What a person is told of trials that ended because of where files lie (`trainables.outages`)."""

from __future__ import annotations

from trainables.outages import outage


def sentence(number: int, cause: str, name: str) -> str:
    """What a person is told where trial `number` of the search `name` met an outage."""
    what = outage(cause)
    assert what is not None
    mend = "free space" if what == "no room for" else "bring back what isn't there"
    return (
        f"storage: {what} files that trial {number} needs ({cause.strip().splitlines()[-1][:300]}); {mend} and go on "
        f"with: medtune resume {name}. The trial goes on from its newest checkpoint."
    )
