# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests/lab/compiled keeps is what Python would compile."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "lab" / "compiled" / "natlb_compiled.py"
#: Long enough to be kept.
FILL = "#" * 400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout of its own, so that nothing is kept yet."""
    own = tmp_path / "tests" / "lab" / "compiled"
    own.mkdir(parents=True)
    shutil.copy(SOURCE, own)
    return tmp_path


def run(folder: Path, script: str, *words: str) -> str:
    begin = f"import sys; sys.path.insert(0, {str(folder / 'tests/lab/compiled')!r}); import natlb_compiled\n"
    # Nothing but this: the Python of the tests has one of its own already.
    argv = [sys.executable, "-I", "-S", "-B", "-c", begin + script, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def kept(folder: Path) -> set[Path]:
    return {path for path in (folder / ".cache").rglob("*") if path.is_file()}


def archive(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("sent.py", text)
    return str(path)


IMPORT = "sys.path.insert(0, sys.argv[1]); import sent; print(sent.VALUE, sent.where())"
SENT = "VALUE = {value}\ndef where(): return where.__code__.co_filename\n" + FILL


def test_an_archive_is_compiled_once_and_names_its_own_file(folder: Path) -> None:
    for name in ("one", "other"):
        path = archive(folder, name, SENT.format(value=1))
        assert run(folder, IMPORT, path) == f"1 {path}/sent.py\n"
        assert len(kept(folder)) == 1


def test_another_text_is_another_code(folder: Path) -> None:
    """Of the same length, at the same place, in the same second."""
    for value in (1, 2):
        path = archive(folder, "same", SENT.format(value=value))
        assert run(folder, IMPORT, path) == f"{value} {path}/sent.py\n"
    assert len(kept(folder)) == 2


ANNOTATED = "text = 'def f(x: unknown): pass\\n' + '#' * 400\n"


@pytest.mark.parametrize(
    ("script", "out"),
    [
        ("from __future__ import annotations\n" + ANNOTATED + "compile(text, 'f', 'exec')", "unknown"),
        (ANNOTATED + "compile(text, 'f', 'exec')", "NameError"),
        (
            "from __future__ import annotations\n" + ANNOTATED + "compile(text, 'f', 'exec', dont_inherit=True)",
            "NameError",
        ),
    ],
)
def test_flags_are_those_of_the_one_who_asks(folder: Path, script: str, out: str) -> None:
    text, _newline, call = script.rpartition("\n")
    show = f"code = {call}\ntry:\n    exec(code)\n    print(f.__annotations__['x'])\n"
    show += "except NameError:\n    print('NameError')\n"
    # A file, for the flags of a script begin where it begins.
    file = folder / "asks.py"
    file.write_text(f"{text}\n{show}")
    for _time in range(2):
        assert run(folder, "sys.path.insert(0, sys.argv[1]); import asks", str(folder)) == f"{out}\n"


def test_an_error_is_told_each_time_and_what_cannot_be_kept_is_compiled(folder: Path) -> None:
    script = "try:\n    compile('(' + '#' * 400, 'f', 'exec')\nexcept SyntaxError as error:\n    print(error.filename)"
    for _time in range(2):
        assert run(folder, script) == "f\n"
    assert not kept(folder)
    (folder / ".cache").write_text("in the way")
    path = archive(folder, "sent", SENT.format(value=1))
    assert run(folder, IMPORT, path).startswith("1 ")


def test_what_is_spoilt_is_compiled_again(folder: Path) -> None:
    path = archive(folder, "sent", SENT.format(value=1))
    run(folder, IMPORT, path)
    (file,) = kept(folder)
    file.write_bytes(file.read_bytes()[:20])
    assert run(folder, IMPORT, path).startswith("1 ")
    assert len(file.read_bytes()) > 20


def test_the_tests_python_has_it() -> None:
    """With -I also: so the program of a host is started. tools/setup has seen to it."""
    script = "import builtins; print(builtins.compile.__module__)"
    for flags in (["-I"], []):
        done = subprocess.run([sys.executable, *flags, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == "natlb_compiled\n"
