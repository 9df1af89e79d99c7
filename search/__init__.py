"""medtune from Python: the same functions that the command line calls.

    from pathlib import Path
    from search import export_best, load_settings, run_final, run_search

    found = run_search(load_settings(Path("search.yaml")), Path("."))
    export_best(found, Path("best.yaml"))
    run_final([Path("best.yaml")], seeds=3)

Names are looked up when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.export import export as export_best
    from search.final import final as run_final
    from search.folder import find as find_search
    from search.launch import resume as resume_search
    from search.launch import search as run_search
    from search.plan import plan as check_search
    from search.predict import predict as predict_images
    from search.report import report as write_report
    from search.settings import load as load_settings
    from search.tracking import sync_once as sync_search

_WHERE = {
    "check_search": ("search.plan", "plan"),
    "export_best": ("search.export", "export"),
    "find_search": ("search.folder", "find"),
    "load_settings": ("search.settings", "load"),
    "predict_images": ("search.predict", "predict"),
    "resume_search": ("search.launch", "resume"),
    "run_final": ("search.final", "final"),
    "run_search": ("search.launch", "search"),
    "sync_search": ("search.tracking", "sync_once"),
    "write_report": ("search.report", "report"),
}
__all__ = [
    "check_search",
    "export_best",
    "find_search",
    "load_settings",
    "predict_images",
    "resume_search",
    "run_final",
    "run_search",
    "sync_search",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _WHERE[name]
    return getattr(import_module(module), function)
