# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps what Python compiles of anything but a file: modules that Ansible sends, the program that a run leaves.

Python keeps the code of files by itself. An archive, a text within a program or a collection's plugin it compiles each
time, and the tests start the same core some thousand times. tools/setup makes the checkout's own Python import this at
its start, also with -I. What is kept is found by the whole text and by all else that the result depends on, as a file's
never is: it cannot be out of date. Nothing is imported for it that a start of Python does not need.
"""

# No `from __future__` here: without dont_inherit the flags of the one who asks count, not those of this file.
import _imp
import builtins
import marshal
import os
import sys
from types import CodeType

_KEPT = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "..", ".cache", "compiled")
#: Flags of a caller that count for what it compiles: those of `from __future__` (Include/cpython/code.h).
_INHERITED = 0x1FE0000
#: A few lines are compiled sooner than looked up.
_WORTH_BYTES = 400

_compile = builtins.compile


def _path(source: str | bytes, flags: int) -> str:
    from _blake2 import blake2b  # noqa: PLC0415  # Most starts compile nothing.

    text = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    how = f"{sys.version} {sys.flags.optimize} {flags} {type(source).__name__} ".encode()
    name = blake2b(how + text, digest_size=20).hexdigest()
    return os.path.join(_KEPT, name[:2], name)


def _read(path: str, filename: str) -> CodeType | None:
    try:
        with open(path, "rb") as file:
            code = marshal.loads(file.read())
    except (OSError, EOFError, ValueError, TypeError):
        return None
    # As importlib does with the code of a file that has moved: a traceback names the file of now.
    _imp._fix_co_filename(code, filename)  # type: ignore[attr-defined]
    return code if isinstance(code, CodeType) else None


def _keep(path: str, code: CodeType) -> None:
    """Where that is possible: hosts of the tests have users of no rights, and disks that are full."""
    own = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(own, "wb") as file:
            file.write(marshal.dumps(code))
        os.rename(own, path)
    except OSError:
        pass


def compile(  # noqa: A001  # It stands in for that one.
    source: object,
    filename: object,
    mode: str,
    flags: int = 0,
    dont_inherit: bool = False,
    optimize: int = -1,
    **more: int,
) -> object:
    """As Python's own: a module's code is kept, of all else nothing is."""
    if not dont_inherit:
        flags |= sys._getframe(1).f_code.co_flags & _INHERITED
    ordinary = mode == "exec" and not flags & ~_INHERITED and optimize == -1 and not more
    if not ordinary or not isinstance(source, (str, bytes)) or not isinstance(filename, str):
        return _compile(source, filename, mode, flags, True, optimize, **more)  # type: ignore[call-overload]
    if len(source) < _WORTH_BYTES:
        return _compile(source, filename, mode, flags, True)
    path = _path(source, flags)
    code = _read(path, filename)
    if code is None:
        code = _compile(source, filename, mode, flags, True)
        _keep(path, code)
    return code


setattr(builtins, "compile", compile)  # noqa: B010  # mypy would have the same signature.
