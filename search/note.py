"""The note on a search's page in MLflow: how it goes, what is best, and the commands that go on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.disclosure import NAME, SearchFacts, public_parameter
from search.ending import Ending
from search.record import State, Trial
from search.trial_text import parameters_text, value_interval, value_text

WHERE = (
    "A name is looked for in `runs` below the folder where you type, or in the folder that MEDTUNE_STORAGE names: "
    "`export MEDTUNE_STORAGE=FOLDER`, with the folder that the search lies in."
)
"""The folder itself, which is a path of somebody's machine, isn't sent to MLflow."""
LONGEST = 1000  # characters that are shown of the command that started a search


def note(
    search: SearchFacts,
    counts: Mapping[str, int],
    winner: Trial | None,
    driven: bool,
    hours: float,
    finals: Sequence[str] = (),
    ending: Ending | None = None,
) -> str:
    """As Markdown.

    Args:
        counts: trials by state.
        driven: whether a driver runs the search.
        hours: of devices, spent in epochs so far.
        finals: a line for each model of a final.
        ending: why it ended early, if it did.
    """
    name, ordered = search.name, search.settings.get("budget.trials", "?")
    ended = sum(n for state, n in counts.items() if state != State.RUNNING)
    called = {str(State.RUNNING): str(State.RUNNING) if driven else "unfinished"}
    states = ", ".join(f"{n} {called.get(state, state)}" for state, n in counts.items() if n) or "none yet"
    lines = [f"**{name}**: {ended} of {ordered} trials ended ({states}); {hours:.2f} device hours in epochs."]
    if ending is not None:
        lines.append(f"Ended early: {ending.public.rstrip('.')}.")
    if winner is None:
        lines.append("No complete trial yet.")
    else:
        chosen = {k: v for k, v in winner.point.items() if search.searched is None or k in search.searched}
        named = {k: v for k, v in chosen.items() if NAME.fullmatch(k)}
        public = {k: v if isinstance(v, float) else public_parameter(k, v) for k, v in named.items()}
        what = parameters_text(public)
        of_fold = int(search.settings.get("budget.epochs", winner.done))
        has_interval = value_interval(winner, search.metric, of_fold)
        brackets = " In brackets the 95% interval over groups of the validation set." if has_interval else ""
        lines.append(
            f"Best so far: trial {winner.number}, {search.metric} {value_text(winner, search.metric, of_fold)}: {what}."
            f"{brackets} The best of many is too good on average, a final tells more."
        )
    commands = {"look": f"medtune status {name}"}
    if not driven and (counts.get(State.RUNNING) or (ordered.isdigit() and ended < int(ordered))):
        commands["go on"] = f"medtune resume {name}"
    if not driven and not counts.get(State.RUNNING):
        if winner is not None:
            compare = search.settings.get("strategy") == "compare"
            commands["export"] = f"medtune export {name} -o best.yaml{' --per backbone' if compare else ''}"
            commands["make a final"] = f"medtune final {'best-*.yaml' if compare else 'best.yaml'}"
        commands["report"] = f"medtune report {name} -o report.html"
    told = [f"To {what}: `{command}`" for what, command in commands.items()]
    told.append(WHERE)
    if search.command:  # last: it may be long, and a note that is too long is cut off there
        shown = search.command if len(search.command) <= LONGEST else f"{search.command[:LONGEST]} ..."
        told.append(f"Started by `{shown}`, paths left out.")
    return "\n\n".join([*lines, *finals, *told])
