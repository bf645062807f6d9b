# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an Ansible module imports comes from an archive, and is compiled once."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from _natlb.host import archive

ROOT = Path(__file__).parents[3]
#: Prints how often each file was compiled, and what the modules say of themselves.
SCRIPT = """
import builtins, collections, json, sys
sys.path.insert(0, sys.argv[1])
import made
from made import archive
if len(sys.argv) > 2:
    archive.compile_once()
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


def imported(folder: Path, *words: str) -> Any:
    packed = folder / "packed.zip"
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("made/__init__.py", "")
        made.writestr("made/archive.py", Path(archive.__file__).read_text())
        made.writestr("made/one.py", "from .inner import two")
        made.writestr("made/inner/__init__.py", "")
        made.writestr("made/inner/two.py", "VALUE = 2")
    argv = [sys.executable, "-I", "-c", SCRIPT, str(packed), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_each_module_is_compiled_once_and_all_else_is_as_python_has_it(tmp_path: Path) -> None:
    by_python, by_us = imported(tmp_path), imported(tmp_path, "once")
    counted, names = by_us[:2]
    assert counted == dict.fromkeys(names, 1)
    assert by_us[1:] == by_python[1:]
    assert set(by_python[0].values()) == {2}, "Python has learnt it: this is not needed any more"


@pytest.mark.parametrize("path", sorted((ROOT / "plugins" / "modules").glob("*.py")), ids=lambda path: path.stem)
def test_a_module_of_ansible_asks_for_it_first(path: Path) -> None:
    imports = [line for line in path.read_text().splitlines() if line.startswith(("from ", "import ", "archive."))]
    assert imports[1].endswith("_natlb.host import archive")
    assert imports[2] == "archive.compile_once()"
