# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks by a program of the user: what it tells, and what becomes of it."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _natlb.host import children
from _natlb.model.entities import Service
from checks_lab import LOCAL, Loop, service

ME = pwd.getpwuid(os.geteuid()).pw_name


def command(line: str, user: str = ME, timeout: float = 2, **keys: Any) -> Service:
    """`timeout` is short only where the program is to be late."""
    asked = {"argv": ["/bin/sh", "-c", line], "user": user, "timeout": timeout, "interval": 2, "fast_interval": 0.2}
    return service(8080, type="command", **{**asked, **keys})


@pytest.mark.parametrize(
    ("line", "state", "reason"),
    [
        ("true", "up", ""),
        ("test {address}:{port} = 127.0.0.1:8080", "up", ""),
        ("test $NATLB_ADDRESS:$NATLB_PORT = 127.0.0.1:8080", "up", ""),
        ("exit 3", "down", "sh: exit status 3, 2 of 2"),
        ("echo first; echo '  disk   full' >&2; echo; exit 1", "down", "sh: exit status 1: disk full, 2 of 2"),
        ("kill -TERM $$", "down", "sh: ended by SIGTERM, 2 of 2"),
        ("read line", "down", "sh: exit status 1, 2 of 2"),
        ("exec sleep 100", "down", "sh: not done within 0.5 s, 2 of 2"),
        ("exec >&- 2>&-; exec sleep 100", "down", "sh: not done within 0.5 s, 2 of 2"),
        ("trap '' TERM INT HUP; while :; do sleep 100; done", "down", "sh: not done within 0.5 s, 2 of 2"),
        ("yes", "down", "sh: printed more than 1 MiB, 2 of 2"),
    ],
)
def test_commands(loop: Callable[..., Loop], line: str, state: str, reason: str) -> None:
    late = {"timeout": 0.5} if reason.startswith("sh: not done") else {}
    found = loop(command(line, **late)).event().finding
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize(
    ("argv", "user", "reason"),
    [
        (["/no/such/program"], ME, "cannot run /no/such/program: No such file or directory"),
        (["/etc/passwd"], ME, "cannot run /etc/passwd: Permission denied"),
        (["true"], "nobody-knows", "cannot run true: there is no user nobody-knows"),
    ],
)
def test_a_command_that_cannot_be_run_says_nothing_of_a_backend(
    loop: Callable[..., Loop], argv: list[str], user: str, reason: str
) -> None:
    """All backends would be down at once because of a package that is missing on the balancer."""
    found = loop(service(80, type="command", argv=argv, user=user))
    for _check in range(4):
        began = [status.began for status in found.checker.overview()]
        found.until(lambda began=began: [status.began for status in found.checker.overview()] != began)  # type: ignore[misc]
    (status,) = found.checker.overview()
    assert (status.result, status.last, status.finding) == ("unasked", reason, None)
    assert not found.events
    assert found.checker.unasked.told(time.monotonic()) == f"{LOCAL}:80 cannot be checked: {reason}"


@pytest.mark.parametrize("watched", [True, False], ids=["pidfd", "old kernel"])
@pytest.mark.parametrize(("line", "state"), [("", "up"), ("exit 1", "down"), ("sleep 100", "down")])
def test_what_a_command_leaves_behind_is_ended(
    loop: Callable[..., Loop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watched: bool,
    line: str,
    state: str,
) -> None:
    if not watched:
        monkeypatch.setattr(children, "_watch", lambda _pid: None)
    noted, leaders = tmp_path / "pids", tmp_path / "leaders"
    found = loop(
        command(
            f"echo $$ >> {leaders}; sleep 100 & echo $! >> {noted}; sleep 100 >&- 2>&- & echo $! >> {noted}; {line}",
            timeout=1.5 if line == "sleep 100" else 2,
        )
    )
    assert found.event().finding.state == state
    numbers = [int(number) for number in noted.read_text().split()]
    assert len(numbers) >= 2
    found.until(lambda: not any(is_running(number) for number in numbers))
    # Those that this process began itself leave not even a zombie.
    shells = leaders.read_text().split()[:1]
    found.until(lambda: not any(Path(f"/proc/{number}").exists() for number in shells))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def more_groups() -> Iterator[None]:
    """Groups of root that no other user may come to be in."""
    groups = os.getgroups()
    if os.geteuid() == 0:
        os.setgroups([*groups, 4])
    yield
    if os.geteuid() == 0:
        os.setgroups(groups)


@pytest.mark.usefixtures("more_groups")
def test_a_command_runs_without_rights(loop: Callable[..., Loop], tmp_path: Path) -> None:
    """As nobody, with no group of root's, and with nothing of what this process has open."""
    line = 'test "$(id -un) $(id -G)" = "nobody $(id -g nobody)" && test "$(echo /proc/self/fd/*)" = "$FDS"'
    expected = "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        checked = command(line.replace("$FDS", expected), user="nobody")
        if os.geteuid():
            found = loop(checked)
            found.until(lambda: next(found.checker.overview()).result == "unasked")
            assert "only root can run a program as nobody" in next(found.checker.overview()).last
        else:
            assert loop(checked).event().finding.state == "up"
