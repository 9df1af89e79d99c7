"""The command line. Nothing heavy is imported before a command needs it, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

EXIT_MISTAKE, EXIT_INTERRUPTED = 2, 130
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TO_DO = {
    **dict.fromkeys(NO_SPACE, "free space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give this user the right to, or choose another place"),
    errno.EROFS: "choose a place that can be written to",
    errno.EIO: "the disk, or what it hangs on, is at fault: see the system's log",
    errno.ESTALE: "mount it anew",
    errno.ENOENT: "restore it, or give another name",
    errno.EISDIR: "give a file's name",
    errno.ENOTDIR: "give another name: a part of it is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""By what the system says of a file: what a person can do."""


def parser() -> argparse.ArgumentParser:
    """Commands and options: a contract, which a test pins."""
    top = argparse.ArgumentParser(
        prog="medtune",
        description="Find, and trust, the best way to fine-tune a vision foundation model on medical images.",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", allow_abbrev=False)

    def existing(sub: argparse.ArgumentParser, **options: Any) -> None:
        sub.add_argument("search", metavar="NAME_OR_DIR", help="a search's name or folder", **options)

    for name, what in (
        ("check", "everything that can be known before the first accelerator second"),
        ("search", "run a search"),
    ):
        sub = command(name, what)
        sub.add_argument("settings", metavar="SEARCH.yaml", help="the search's settings")
        sub.add_argument(
            "--set", metavar="a.b=c", action="append", default=[], dest="changes", help="change one setting"
        )
        if name == "search":
            sub.add_argument("--address", metavar="ADDRESS", help="a Ray cluster; without it, one on this machine")
            instead = sub.add_mutually_exclusive_group()
            instead.add_argument(
                "--smoke", action="store_true", help="one trial of two steps through every part, of which nothing stays"
            )
            instead.add_argument(
                "--dry-run", metavar="N", type=int, help="print the N configurations that would come first; run nothing"
            )
    sub = command("resume", "go on with a search that was stopped or killed")
    existing(sub)
    sub.add_argument(
        "--set", metavar="a.b=c", action="append", default=[], dest="changes", help="more trials, time, other resources"
    )
    sub.add_argument("--accept-code-change", action="store_true", help="go on though the code of trials has changed")
    sub.add_argument("--address", metavar="ADDRESS", help="a Ray cluster; without it, one on this machine")
    sub = command("extend", "go on with more trials, a wider space or further backbones, which the record notes")
    existing(sub)
    sub.add_argument(
        "--set", metavar="a.b=c", action="append", default=[], dest="changes", required=True, help="change one setting"
    )
    sub.add_argument("--address", metavar="ADDRESS", help="a Ray cluster; without it, one on this machine")
    sub = command("cancel", "end one trial of a search, running or not")
    existing(sub)
    sub.add_argument("number", metavar="NUMBER", type=int, help="the trial's number, as medtune status shows it")
    sub = command("ls", "the searches under a storage: state, best, owner, size on disk")
    sub.add_argument("storage", metavar="STORAGE", nargs="?", help="their folder (default: MEDTUNE_STORAGE, or runs)")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub = command("diff", "what differs between two searches")
    sub.add_argument("first", metavar="A", help="a search's name or folder")
    sub.add_argument("second", metavar="B", help="another one's")
    sub = command("prune", "free the space of checkpoints that nothing needs any more")
    existing(sub)
    sub.add_argument("--top", metavar="K", type=int, default=1, help="keep those of the K best trials (default: 1)")
    sub.add_argument("--dry-run", action="store_true", help="only say what would be freed")
    sub = command("status", "trials with number, state, cause, parameters, epochs, value; best so far")
    existing(sub)
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub = command("export", "write the best configuration to a file")
    existing(sub)
    where = sub.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", dest="output", metavar="best.yaml", help="file to write")
    where.add_argument(
        "--bundle",
        metavar="DIR",
        help="a folder to repeat the search from elsewhere, without paths and ids",
    )
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--top", metavar="K", type=int, help="the K best, as best-1.yaml, best-2.yaml, ...")
    which.add_argument("--per", choices=("backbone",), help="the best of each backbone")
    sub = command("final", "final runs of exported configurations; opens the test set once")
    sub.add_argument(
        "exports", metavar="best.yaml", nargs="+", help="exported configurations; several are one opening of the test"
    )
    sub.add_argument("--seeds", metavar="N", type=int, help="runs with different seeds (default: 5)")
    sub.add_argument("--workers", metavar="N", type=int, help="workers of one run, through Ray Train")
    sub.add_argument(
        "--fit", choices=("train", "all"), help="learn from train only (the default), or from train + validation"
    )
    sub.add_argument("--again", metavar="REASON", help="open the test set again, and why")
    sub.add_argument(
        "--evaluate",
        metavar="DATASET.yaml",
        help="evaluate finished models on an external test set; give their MODEL_DIR instead of exports",
    )
    sub.add_argument("-o", dest="output", metavar="DIR", help="folder to write (default: final beside the search)")
    sub = command("report", "one page of searches and their finals")
    existing(sub, nargs="+")
    sub.add_argument(
        "-o", dest="output", metavar="report.html", required=True, help="file to write: .html, .md (Markdown) or .csv"
    )
    sub.add_argument(
        "--images", action="store_true", help="show the worst errors on validation: thumbnails of patients' images"
    )
    sub = command("predict", "class probabilities of images, by a final's model")
    sub.add_argument("model", metavar="MODEL_DIR", help="a final's model or ensemble folder; of several, their mean")
    sub.add_argument("images", metavar="IMAGES", nargs="+", help="images, folders of images, or tables (.csv) of them")
    sub.add_argument("-o", dest="output", metavar="predictions.csv", required=True, help="file to write")
    sub.add_argument(
        "--per",
        metavar="COLUMN",
        help="combine images by a column of the tables (study, patient), or by folder",
    )
    sub.add_argument("--path", metavar="COLUMN", default="path", help="column of paths in tables (default: path)")
    sub.add_argument("--root", metavar="DIR", help="folder that paths in tables are relative to (default: the table's)")
    sub = command("sync", "bring MLflow up to date with a search")
    existing(sub)
    sub.add_argument("--follow", action="store_true", help="until the search ends")
    existing(command("ui", "MLflow's pages on this machine"))
    sub = command("demo", "a real search on handwritten digits, in minutes")
    sub.add_argument("-o", dest="output", metavar="DIR", default="demo", help="folder to write (default: demo)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. 0 on success, 2 for a person's mistake, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # trials set their own threads; the driver needs none
    from spaces.mistakes import Mistake

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # spot machines end a process by it: as by Ctrl-C

    try:
        if options.command == "search":
            _refuse_at_once(options)
        from search import commands

        getattr(commands, options.command)(options)
        return 0
    except Mistake as mistake:
        for sentence in mistake.sentences:
            print(f"medtune: {sentence}", file=sys.stderr)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        print("medtune: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in NO_SPACE:
            raise
        where, todo = error.filename or "where it was writing", TO_DO.get(error.errno or 0, "see to it, and try again")
        print(f"medtune: {os.fsdecode(where)}: {error.strerror}; {todo}.", file=sys.stderr)
        return EXIT_MISTAKE


def _refuse_at_once(options: argparse.Namespace) -> None:
    """What can be refused before the heavy imports and the data, which take a while: options that don't go together,
    settings, and an MLflow that is away."""
    from pathlib import Path

    from search.settings import load
    from search.tracking import reachable
    from spaces.mistakes import Mistake

    if options.dry_run is not None and options.address is not None:
        raise Mistake("search: --dry-run starts nothing, on no cluster either; leave --address out.")
    config = load(Path(options.settings), options.changes)
    if config.mlflow not in ("off", "local"):
        reachable(config.mlflow)


if __name__ == "__main__":
    sys.exit(main())
