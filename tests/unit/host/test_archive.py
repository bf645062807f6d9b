# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an Ansible module imports comes from an archive, and is compiled once, until it or the host is another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _natlb.host import archive, store

ROOT = Path(__file__).parents[3]
#: Prints how often each file was compiled, and what the modules say of themselves.
SCRIPT = """
import builtins, collections, json, sys
sys.path.insert(0, sys.argv[1])
import made
from made import archive
if len(sys.argv) > 2:
    archive.compile_once(*sys.argv[2:])
counted, genuine = collections.Counter(), compile
def counting(source, name, *words, **keys):
    counted[name] += 1
    return genuine(source, name, *words, **keys)
builtins.compile = counting
import made.one, made.inner.two
try:
    import made.nobody
except ModuleNotFoundError as error:
    said = str(error)
modules = (made.one, made.inner, made.inner.two)
names = [module.__file__ for module in modules]
archives = [module.__loader__.archive for module in modules]
print(json.dumps([counted, names, archives, made.inner.two.VALUE, said]))
"""


def imported(folder: Path, *words: str, two: str = "VALUE = 2") -> Any:
    packed = folder / "packed.zip"
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("made/__init__.py", "")
        made.writestr("made/archive.py", Path(archive.__file__).read_text())
        made.writestr("made/one.py", "from .inner import two")
        made.writestr("made/inner/__init__.py", "")
        made.writestr("made/inner/two.py", two)
    argv = [sys.executable, "-I", "-c", SCRIPT, str(packed), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_each_module_is_compiled_once_and_all_else_is_as_python_has_it(tmp_path: Path) -> None:
    by_python, by_us = imported(tmp_path), imported(tmp_path, "/nowhere")
    counted, names = by_us[:2]
    assert counted == {name.partition("packed.zip/")[2]: 1 for name in names}
    assert by_us[1:] == by_python[1:]
    assert set(by_python[0].values()) == {2}, "Python has learnt it: this is not needed any more"


def test_what_was_compiled_is_kept_for_the_next_run(tmp_path: Path) -> None:
    kept = tmp_path / "run"
    assert imported(tmp_path, str(kept))[0]
    assert not kept.exists(), "where nothing is declared, nothing is kept"
    kept.mkdir()
    counted, *rest = imported(tmp_path, str(kept))
    assert len(counted) == 3
    assert (kept / "code").stat().st_mode & 0o777 == 0o600
    written = store.stamp(kept / "code")
    assert imported(tmp_path, str(kept)) == [{}, *rest]
    assert store.stamp(kept / "code") == written, "there was no more to keep"
    assert [path.name for path in kept.iterdir()] == ["code"]


def test_another_text_is_compiled_anew(tmp_path: Path) -> None:
    imported(tmp_path, str(tmp_path))
    counted, *_rest, value, _said = imported(tmp_path, str(tmp_path), two="VALUE = 3")
    assert [Path(name).name for name in counted] == ["two.py"]
    assert value == 3
    assert imported(tmp_path, str(tmp_path))[0] == {}, "both are kept"


def spoilt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        spoilt,
        lambda path: os.truncate(path, 100),
        lambda path: os.truncate(path, 0),
        lambda path: path.chmod(0o666),
        lambda path: path.chmod(0o620),
        lambda path: os.chown(path, 65534, 65534),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_what_is_damaged_or_not_ours_is_not_read(harm: Callable[[Path], None], tmp_path: Path) -> None:
    expected = imported(tmp_path, str(tmp_path))
    harm(tmp_path / "code")
    assert imported(tmp_path, str(tmp_path)) == expected
    assert {path.name for path in tmp_path.iterdir()} == {"code", "packed.zip"}


def test_code_of_former_versions_goes_at_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 5000)
    path = tmp_path / "code"
    for number in range(20):
        compiled = archive.Compiled()
        compiled.read(str(path))
        values: dict[str, int] = {}
        exec(compiled.code(f"VALUE = {number}  # {'x' * 500}".encode(), "it.py"), values)
        assert values["VALUE"] == number
        compiled.keep()
        assert path.stat().st_size < 5100


@pytest.mark.parametrize("path", sorted((ROOT / "plugins" / "modules").glob("*.py")), ids=lambda path: path.stem)
def test_a_module_of_ansible_asks_for_it_first(path: Path) -> None:
    imports = [line for line in path.read_text().splitlines() if line.startswith(("from ", "import ", "archive."))]
    assert imports[1].endswith("_natlb.host import archive")
    assert imports[2] == "archive.compile_once()"
