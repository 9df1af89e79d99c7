"""What each command of the command line does. Each imports what it needs: looking at a search waits for no torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from search.console import Console
from search.folder import SearchFolder, find
from search.record import best
from search.settings import load
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.words import counted


def check(options: argparse.Namespace) -> None:
    from search.check import check as run

    path = Path(options.settings)
    run(load(path, options.changes), path.parent, Console.of_terminal())


def search(options: argparse.Namespace) -> None:
    from search.disclosure import public_command
    from search.launch import Interrupted
    from search.launch import search as run

    path = Path(options.settings)
    console = Console.of_terminal()
    config = load(path, options.changes)
    if options.dry_run is not None:
        _dry_run(config, path.parent, options.dry_run, console)
        return
    if options.smoke:
        from search.smoke import smoke

        smoke(config, path.parent, address=options.address, console=console)
        return
    command = public_command(path, options.changes, options.address)
    try:
        found = run(config, path.parent, address=options.address, console=console, command=command)
    except Interrupted:
        _interrupted(console, Path(config.storage) / config.name)
    next_steps(console, found)


def resume(options: argparse.Namespace) -> None:
    from search.launch import Interrupted
    from search.launch import resume as run

    console = Console.of_terminal()
    found = find(options.search)
    try:
        run(
            found,
            address=options.address,
            console=console,
            changes=options.changes,
            accept_code=options.accept_code_change,
        )
    except Interrupted:
        _interrupted(console, found.path)
    next_steps(console, found)


def _dry_run(config: SearchConfig, base: Path, count: int, console: Console) -> None:
    from search.dry_run import dry_run, line
    from search.plan import plan

    if count < 1:
        raise Mistake(f"--dry-run {count}: expected 1 or more.")
    with console.working("looking at the data"):
        planned = plan(config, base, decoded=False)
    trials = dry_run(planned, count)
    console.print(*(line(trial) for trial in trials))
    console.print(
        f"{len(trials)} of {counted(planned.config.budget.trials, 'trial')}, as they would be ordered before any has "
        "told a result; nothing was run."
    )


def extend(options: argparse.Namespace) -> None:
    from search.extension import extend as run
    from search.launch import Interrupted
    from search.launch import resume as resume_search

    console, found = Console.of_terminal(), find(options.search)
    with console.working("looking at the data") as progress:
        changed = run(found, options.changes, progress)
    console.print(*(f"Extended: {sentence}" for sentence in changed))
    try:
        resume_search(found, address=options.address, console=console)
    except Interrupted:
        _interrupted(console, found.path)
    next_steps(console, found)


def cancel(options: argparse.Namespace) -> None:
    from search.cancellation import cancel as run

    found, console = find(options.search), Console.of_terminal()
    if run(found, options.number):
        console.print(f"Trial {options.number} is cancelled.")
    else:
        console.print(f"The driver hasn't answered yet; trial {options.number} is cancelled as soon as it looks.")


def ls(options: argparse.Namespace) -> None:
    from search.folder import storage_folder
    from search.listing import lines, listing

    storage = Path(options.storage) if options.storage else storage_folder()
    found = listing(storage)
    if options.json:
        print(json.dumps([one.plain() for one in found], indent=1))
    elif found:
        console = Console.of_terminal()
        console.print(*lines(found, console.rich.width))
    else:
        Console.of_terminal().print(f"No search lies in {storage.resolve()}.")


def diff(options: argparse.Namespace) -> None:
    from search.difference import difference, table

    first, second = find(options.first), find(options.second)
    found = difference(first, second)
    console = Console.of_terminal()
    if found:
        console.print(table(found, options.first, options.second))
    else:
        console.print("Nothing differs.")


def prune(options: argparse.Namespace) -> None:
    from search.listing import readable
    from search.pruning import prune as run

    found, console = find(options.search), Console.of_terminal()
    pruned = run(found, top=options.top, dry_run=options.dry_run)
    for number, why in sorted(pruned.kept.items()):
        console.print(f"kept: trial {number}: {why}")
    verb = "would be freed" if options.dry_run else "freed"
    console.print(
        f"{readable(pruned.freed)} {verb}: the checkpoints of "
        f"{counted(len(pruned.folders), 'trial or job', 'trials and jobs')}."
    )


def _interrupted(console: Console, folder: Path) -> None:
    console.print(f"Stopped. Go on with: medtune resume {folder}")
    raise KeyboardInterrupt


def next_steps(console: Console, found: SearchFolder) -> None:
    study = found.study()
    if not all(trial.state.terminal for trial in study.trials):
        return  # out of time: how to go on has been said
    if best(study.trials, study.identity["direction"]) is None:
        console.print(f"No trial was completed; the causes: medtune status {found.path}")
        sys.exit(1)
    compare = found.config().strategy == "compare"
    console.print(
        "Next:",
        f"  medtune export {found.path} -o best.yaml{' --per backbone' if compare else ''}",
        f"  medtune final {'best-*.yaml' if compare else 'best.yaml'}",
        f"  medtune report {found.path} -o report.html",
        f"  medtune ui {found.path}",
    )


def status(options: argparse.Namespace) -> None:
    from search.status import status_json, status_lines

    found = find(options.search)
    if options.json:
        print(status_json(found))
        return
    console = Console.of_terminal()
    console.print(*status_lines(found, console.rich.width if console.live else None))


def export(options: argparse.Namespace) -> None:
    from search.export import export as write
    from search.export import left_out

    console, found = Console.of_terminal(), find(options.search)
    if options.bundle:
        from search.bundle import bundle

        if options.top is not None or options.per:
            raise Mistake("export: --bundle holds every trial; leave --top and --per out.")
        console.print(f"Bundle: {bundle(found, Path(options.bundle))}")
        return
    for path, line in write(found, Path(options.output), top=options.top, per=options.per):
        console.print(f"{path}: {line}")
    if options.per == "backbone":
        console.print(*left_out(found))


def final(options: argparse.Namespace) -> None:
    if options.evaluate:
        _evaluate(options)
        return
    from search.final import SEEDS
    from search.final import final as run

    run(
        [Path(p) for p in options.exports],
        seeds=options.seeds if options.seeds is not None else SEEDS,
        workers=options.workers,
        fit=options.fit or "train",
        again=options.again,
        output=Path(options.output) if options.output else None,
        console=Console.of_terminal(),
    )


def _evaluate(options: argparse.Namespace) -> None:
    given = {"--seeds": options.seeds, "--workers": options.workers, "--fit": options.fit, "-o": options.output}
    if idle := [option for option, value in given.items() if value is not None]:
        raise Mistake(
            f"final: --evaluate takes models as they are, and writes beside them; leave {', '.join(idle)} out."
        )
    from search.external import evaluate_external
    from search.interval_text import interval_text

    console = Console.of_terminal()
    for path, result in evaluate_external(
        Path(options.evaluate), [Path(p) for p in options.exports], again=options.again
    ):
        shown = interval_text(result["shipped"])
        console.print(f"{result['model']}: {result['metric']} {shown} on {result['units']} units of the external set")
        if calibrated := result["calibration"]:
            brier = interval_text(calibrated["intervals"]["test_after"]["brier"])
            error = calibrated["test_after"]["ece"]
            console.print(
                f"  at the model's own temperature {calibrated['temperature']:.3g}: Brier score {brier}"
                + (f", expected calibration error {error:.4f}" if error is not None else "")
            )
        console.print(*(f"  {caveat}" for caveat in result["caveats"]), f"  result: {path}")


def report(options: argparse.Namespace) -> None:
    from search.report import holds_images
    from search.report import report as write

    path = write([find(s) for s in options.search], Path(options.output), images=options.images)
    Console.of_terminal().print(f"Report: {path}")
    if options.images and holds_images(path):
        Console.of_terminal().print("It holds images of patients: send it only where they may go.")
    elif options.images:
        Console.of_terminal().print("It holds no images: nothing on validation was got wrong, or no trial is complete.")


def predict(options: argparse.Namespace) -> None:
    from search.predict import describe, split_models
    from search.predict import predict as run

    models, images = split_models([Path(p) for p in (options.model, *options.images)])
    count, predictor = run(
        models,
        images,
        Path(options.output),
        per=options.per,
        column=options.path,
        root=Path(options.root) if options.root else None,
    )
    what = counted(count, "image") if options.per is None else f"{count} by {options.per}"
    Console.of_terminal().print(f"{options.output}: probabilities of {what}", f"  {describe(predictor)}")


def sync(options: argparse.Namespace) -> None:
    from search.tracking import follow, sync_once

    found = find(options.search)
    if options.follow:
        if not follow(found.path):
            name = found.path.name
            todo = f"; try again by: medtune sync {found.path}" if found.path.is_dir() else ": its folder is gone"
            print(f"medtune: MLflow isn't up to date with {name}{todo}.", file=sys.stderr)
            sys.exit(1)
    else:
        console, left_out = Console.of_terminal(), list[str]()
        with console.working("bringing MLflow up to date", of="trials"):
            address, trials = sync_once(found.path, left_out.append)
        but = ", but for what stands below" if left_out else ""
        console.print(
            f"{address} is up to date with {found.path.name}, {counted(trials, 'trial')}{but}. "
            f"Look: medtune ui {found.path}",
            *(f"Not sent: {sentence}" for sentence in left_out),
        )


def ui(options: argparse.Namespace) -> None:
    from search.ui import serve

    serve(find(options.search).path)


def demo(options: argparse.Namespace) -> None:
    from search.demo import demo as run

    sys.exit(run(Path(options.output), Console.of_terminal()))
