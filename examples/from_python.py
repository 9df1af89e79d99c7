"""A search, its best configuration, and a final result, from Python.

python examples/from_python.py SEARCH.yaml
"""

import sys
from pathlib import Path

from search import export_best, load_settings, run_final, run_search

if __name__ == "__main__":
    settings = Path(sys.argv[1])
    found = run_search(load_settings(settings), settings.parent)
    for _, what in export_best(found, found.path / "best.yaml"):
        print(what)
    result = run_final([found.path / "best.yaml"], seeds=2)
    print(result / "result.json")
