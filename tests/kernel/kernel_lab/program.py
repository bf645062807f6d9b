# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `natlb` on the balancer, as a run has left it there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from unittest import mock

from _natlb.cli import single_file

_begun: dict[str, tuple[subprocess.Popen[bytes], list[bytes], threading.Thread]] = {}


def run(
    root: str, variant: str | None, words: list[str], timeout_s: float = 60.0, sudo_user: str = ""
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line, as this user of sudo or without sudo."""
    line, environment = [*argv(root, variant), *words], {**os.environ, "SUDO_USER": sudo_user}
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr


def argv(root: str, variant: str | None) -> list[str]:
    """How a command line begins."""
    program = Path(root, "etc", "current", "natlb")
    return [sys.executable, "-I", str(program), *(["--variant", variant] if variant else []), "--root", root]


def begin(root: str, variant: str | None, words: list[str], terminal: tuple[int, int] | None) -> None:
    """Start it: at a terminal of so many columns and lines, or with its output in a pipe."""
    # Whatever a shell has started in the background ignores Ctrl-C, and so does what that starts.
    line = ["env", "--default-signal=INT", *argv(root, variant), *words]
    said: list[bytes] = []
    if terminal is None:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        source = process.stdout.fileno()
    else:
        source, inner = os.openpty()
        columns, lines = terminal
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        process = subprocess.Popen(line, stdin=inner, stdout=inner, stderr=inner, env=environment)
        os.close(inner)

    def read() -> None:
        # The end of a terminal is an error.
        with contextlib.suppress(OSError):
            while data := os.read(source, 65536):
                said.append(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    _begun[root] = process, said, reader


def said(root: str) -> str:
    return b"".join(_begun[root][1]).decode()


def wait_for(root: str, words: str, times: int = 1, within_s: float = 30.0) -> str:
    """Until it has said this so often. Returns all that it said."""
    give_up = time.monotonic() + within_s
    while said(root).count(words) < times:
        if time.monotonic() > give_up:
            raise RuntimeError(f"it did not say {words!r}:\n{said(root)}")
        time.sleep(0.01)
    return said(root)


def end(root: str, number: int) -> tuple[int, str]:
    """Send it a signal; its exit code, and all that it said."""
    process, _said, reader = _begun[root]
    process.send_signal(number)
    status = process.wait(20)
    reader.join(20)
    text = said(root)
    del _begun[root]
    return status, text


def until(root: str, words: list[str], status: int, within_s: float = 20.0) -> None:
    """Until it ends so."""
    give_up = time.monotonic() + within_s
    while (found := run(root, None, words))[0] != status:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{words}: {found}")


def processor_ms(root: str, lines: list[list[str]], times: int) -> list[float]:
    """What each of these command lines costs: the least of so many calls, made by turns."""

    def cost(words: list[str]) -> float:
        line = [*argv(root, None), *words]
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _pid, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return 1000 * (used.ru_utime + used.ru_stime)

    rounds = [[cost(words) for words in lines] for _round in range(times)]
    return [min(found) for found in zip(*rounds, strict=True)]


def imported(root: str, words: list[str]) -> set[str]:
    """The names of the modules that a command line imports."""
    python, *line = [*argv(root, None), *words]
    done = subprocess.run([python, "-X", "importtime", *line], capture_output=True, text=True, check=False)
    return {row.rpartition("|")[2].strip() for row in done.stderr.splitlines() if row.startswith("import time:")}


def later() -> str:
    """The program of another version, which knows one key more of a service."""
    sources, name = single_file._sources(), "_natlb.model.services"
    source = sources[name][1].replace('"redispatch"', '"of_the_future", "redispatch"', 1)
    with mock.patch.object(single_file, "_sources", return_value={**sources, name: (False, source)}):
        return single_file.text().replace("sys.exit(main())", _FLUSHED_ONCE)


#: Where a test says so, somebody takes the rules away once the program has looked at them last.
_FLUSHED_ONCE = """
status = main()
if sys.argv[-1] == "apply":
    import os, subprocess
    asked = os.path.join(sys.argv[-2], "flush")
    if os.path.exists(asked):
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        os.remove(asked)
sys.exit(status)
"""


def broken() -> str:
    """The program of another version, which counts how often it is run."""
    return "import sys\nopen(sys.argv[-2] + '/broken', 'a').write('.')\nsys.exit('it is broken')\n"


def broken_again(root: str, times: int, within_s: float = 30.0) -> None:
    """Until it was run so often more."""
    path, give_up = Path(root, "broken"), time.monotonic() + within_s
    most = path.stat().st_size + times
    while path.stat().st_size < most:
        if time.monotonic() > give_up:
            raise TimeoutError(path.read_text())
        time.sleep(0.05)
