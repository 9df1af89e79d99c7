"""The digest of source code: of packages and of single modules."""

from pathlib import Path

import pytest

from spaces.sources import sources, sources_digest


def test_any_change_of_a_source_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    of_package, of_module = [sources_digest(["some_package"])], []
    for file, text in (("module.py", "a = 1"), ("module.py", "a = 2"), ("row.yaml", "a: 1"), ("other.py", "a = 2")):
        (package / file).write_text(text)
        of_package.append(sources_digest(["some_package"]))
        of_module.append(sources_digest(["some_package.module"]))
    assert len(set(of_package)) == 5
    assert of_module[0] != of_module[1] == of_module[2] == of_module[3]
    (package / "notes.txt").write_text("no source")
    assert sources_digest(["some_package"]) == of_package[-1]


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ValueError, match="no package or module spaces.nothing"):
        sources("spaces.nothing")
