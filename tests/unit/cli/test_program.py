# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `natlb`: tables, and what is made of the list of commands."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from _natlb.cli import arguments, commands, completion, main, manual
from _natlb.health import overview
from _natlb.health.checks import Status
from _natlb.health.question import questions
from _natlb.host import store
from _natlb.model.effective import Finding, Findings
from _natlb.model.services import parse_config
from _natlb.plan import rollback, waiting
from _natlb.status import checks_table
from _natlb.status.columns import aligned, duration, listed, telling

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
HTTP = {"type": "http", "path": "/ready", "host": "www.example.com", "interval": "2s", "fast_interval": "500ms"}
CONFIG = parse_config(
    [
        {
            "name": name,
            "listen": f"192.0.2.{number}:80",
            "health": {**HTTP, "slow_start": f"{number}s"},
            "backends": [{"name": "web1", "address": "10.0.0.3", "port": 8080}, {"address": "2001:db8::3"}][:1],
        }
        for number, name in enumerate(("web", "api", "old"), 1)
    ],
    [],
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0ms"),
        (0.0004, "0ms"),
        (0.35, "350ms"),
        (2, "2s"),
        (2.51, "2.5s"),
        (59, "59s"),
        (60, "1m"),
        (252, "4m12s"),
        (3 * 3600 + 59, "3h"),
        (3 * 3600 + 240, "3h4m"),
        (12 * 86400 + 3600, "12d1h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_tables() -> None:
    rows = [("NAME", "NEW", "NOTE"), ("web1", "5", "-"), ("a", "100", "")]
    assert aligned(telling(rows), ["NEW"]) == ["NAME  NEW", "web1    5", "a     100"]
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert listed(["a"]) == "a"


def status(**keys: Any) -> Status:
    ((question, askers),) = questions(CONFIG.services).items()
    given: dict[str, Any] = {
        "question": question,
        "askers": tuple(askers),
        "finding": Finding("up", "2026-11-26T08:00:00+00:00"),
        "against": 0,
        "needed": 3,
        "result": "up",
        "last": "200 OK",
        "took_s": 0.0012,
        "began": 99.0,
        "due": 100.75,
        "damping": 1,
    }
    return Status(**{**given, **keys})


DOWN = Finding("down", "2026-11-26T11:55:48+00:00", "connect to 10.0.0.3:8080: Connection refused, 3 of 3")


@pytest.mark.parametrize(
    ("keys", "ends"),
    [
        ({}, "2s       1s  up     4h       1.2ms  750ms  200 OK"),
        ({"due": None}, "2s       1s  up     4h       1.2ms   now  200 OK"),
        (
            {"against": 1, "result": "down", "last": "no answer within 1 s", "took_s": 1.0},
            "500ms       1s  up     4h     1/3        1s  750ms  no answer within 1 s",
        ),
        (
            {"finding": DOWN, "result": "down", "last": "Connection refused", "needed": 8, "damping": 4},
            "2s       1s  down   4m12s  0/8 flapping  1.2ms  750ms  Connection refused",
        ),
        ({"finding": None, "began": None, "result": "", "took_s": None, "last": ""}, "2s       1s  unknown   750ms"),
        ({"result": "unasked", "last": ""}, "2s       1s  up     4h       1.2ms  750ms  not made"),
    ],
    ids=["up", "under way", "changing", "flapping", "new", "unasked"],
)
def test_a_check_is_a_line(keys: dict[str, Any], ends: str) -> None:
    header, line = checks_table.lines(overview.of_agent([status(**keys)], 100.0), NOW, width=200)
    assert header.startswith("BACKEND  CHECK")
    start = "web1     http 10.0.0.3:8080/ready (www.example.com)  web, api and 1 more  "
    assert line.startswith(start)
    assert line[len(start) :].split() == ends.split()


@pytest.mark.parametrize(
    ("found", "ends"), [({}, "2s       1s  unknown"), ({"web": DOWN}, f"2s       1s  down   4m12s  {DOWN.reason}")]
)
def test_without_the_agent_what_was_found_last_is_shown(found: dict[str, Finding], ends: str) -> None:
    ((_question, askers),) = questions(CONFIG.services).items()
    findings: Findings = {asker.place: found[asker.place.service or ""] for asker in askers if asker.place[0] in found}
    (_header, line) = checks_table.lines(overview.of_files(CONFIG.services, findings), NOW, width=200)
    assert line.split("1 more")[1].split() == ends.split()


def test_both_answers_have_the_same_keys() -> None:
    (agent,), (files,) = overview.of_agent([status()], 100.0), overview.of_files(CONFIG.services, {})
    assert agent.keys() == files.keys()
    assert agent["last"].keys() == files["last"].keys()
    assert agent["last"]["began_s_ago"] == 1.0


# -- commands --------------------------------------------------------------------------------------------------------


def test_every_command_is_carried_out_and_has_an_example() -> None:
    assert {command.name for command in commands.COMMANDS} == set(main.RUNS) - {arguments.COMPLETE}
    for command in commands.COMMANDS:
        assert command.examples, command.name
        for line, _says in command.examples:
            assert command.name in line


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda command: str(command.name))
def test_examples_are_understood(command: commands.Command) -> None:
    for line, _says in command.examples:
        words = shlex.split(line.partition(" && ")[0].partition(" > ")[0].partition(" >> ")[0].partition(" | ")[0])
        if words[0] == commands.PROGRAM:
            assert arguments.parser().parse_args(words[1:]).command == command.name


@pytest.mark.parametrize("words", [[], *([command.name] for command in commands.COMMANDS)])
def test_help_has_examples_and_exit_codes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([*words, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n" in text
    command = next((item for item in commands.COMMANDS if words == [item.name]), None)
    codes = [int(line.split()[0]) for line in text.partition("exit codes:\n")[2].splitlines()]
    assert codes == (arguments.exits(command) if command else list(commands.EXIT_CODES))


# -- completion ------------------------------------------------------------------------------------------------------

STATE: dict[str, Any] = {
    "services": [
        {
            "name": "web",
            "backends": [
                {"name": "web1", "address": "10.0.0.3", "port": 8080},
                {"name": "web2", "address": "10.0.0.4", "port": 8080},
            ],
        },
        {"name": "wide", "backends": [{"name": "2001:db8::3", "address": "2001:db8::3", "port": None}, 5]},
        {"name": None},
        "damaged",
    ]
}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("", [command.name for command in commands.COMMANDS]),
        ("dr", ["drain"]),
        ("drain web1", ["web1"]),
        ("drain 10.0.0.4:", ["10.0.0.4:8080"]),
        ("drain 2001", ["2001:db8::3"]),
        ("drain --service web --reason ", []),
        ("drain --service w", ["web", "wide"]),
        ("drain --service wide ", ["2001:db8::3"]),
        ("drain web1 ", []),
        ("drain --wait web1 --", ["--service", "--reason", "--timeout", "--close", "--min-active", "--help"]),
        ("drain --timeout ", []),
        ("weight web1 ", []),
        ("status wi", ["wide"]),
        ("status --json w", ["web", "wide"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("dran ", []),
    ],
)
def test_what_a_shell_offers(line: str, offered: list[str]) -> None:
    found = completion.candidates(line.split(" "), STATE)
    assert [word for word, _says in found] == offered
    assert not any(set("\t\n") & set(word + says) for word, says in found)


@pytest.mark.parametrize("state", [{}, {"services": 3}, {"services": [{"name": "web", "backends": None}]}])
def test_a_damaged_state_offers_less(state: dict[str, Any]) -> None:
    assert [word for word, _says in completion.candidates(["drain", ""], state)] == []


#: A shell with a program `natlb` that is this code; what it offers, a line each.
BASH = """
natlb() {{ {python} -c 'import sys; sys.path.insert(0, sys.argv[1]); from _natlb.cli.main import main
sys.exit(main(["--root", sys.argv[2], *sys.argv[3:]]))' {core} {root} "$@"; }}
source <(natlb completion bash)
COMP_LINE={line} COMP_POINT=${{#COMP_LINE}} COMP_WORDBREAKS={breaks}
_natlb
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("natlb dr", ["drain"]),
        ("natlb drain web", ["web1", "web2"]),
        ("natlb drain 10.0.0.4:8", ["8080"]),
        ("natlb drain 2001:db", ["db8::3"]),
        ("natlb drain web1 --service ", ["web", "wide"]),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, offered: list[str]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "state.json").write_text(json.dumps(STATE))
    words = {"python": sys.executable, "core": Path(main.__file__).parents[2], "root": tmp_path, "line": line}
    script = BASH.format(breaks="$' \\t\\n\"=:'", **{name: shlex.quote(str(word)) for name, word in words.items()})
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == offered, done.stderr


# -- manual page -----------------------------------------------------------------------------------------------------


def test_the_manual_page_has_all_that_can_be_typed() -> None:
    done = subprocess.run(
        ["man", "--warnings", "--local-file", "-"], input=manual.page(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(re.sub(r".\x08", "", done.stdout).replace("\u2010\n", "").split())
    for command in commands.COMMANDS:
        for item in command.arguments:
            assert item.shown in text
            assert item.help.split(",")[0][1:] in text
        for line, _says in command.examples:
            assert line in text
    for code, words in commands.EXIT_CODES.items():
        assert f"{code} {words}" in text


# -- exit codes ------------------------------------------------------------------------------------------------------


def test_another_change_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.1)
    with store.lock(store.Paths(tmp_path / "etc", tmp_path / "run")):
        assert main.main(["--root", str(tmp_path), "apply"]) == commands.BUSY
    assert "another run (process" in capsys.readouterr().err


def test_another_version_understands_its_own_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its change waits, and its program has options that this one does not know."""
    pending = tmp_path / "run" / rollback.DIRECTORY.format(token="1") / "pending"
    store.write_text(pending, "1e12")
    monkeypatch.setattr(waiting, "other_program", lambda _directory: "the other one")

    def replaced(_path: str, argv: list[str]) -> None:
        raise InterruptedError(*argv[3:])

    monkeypatch.setattr(main.os, "execv", replaced)
    words = ["--variant", "nft", f"--root={tmp_path}", "drain", "web1", "--of-the-future", "1"]
    with pytest.raises(InterruptedError) as caught:
        main.main(words)
    assert [*caught.value.args] == words
    pending.unlink()
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == commands.USAGE


@pytest.mark.parametrize(
    ("words", "root", "command"),
    [
        ([], None, ""),
        (["ready"], None, "ready"),
        (["--root", "/x", "drain", "--root"], "/x", "drain"),
        (["--root=/x", "--variant", "nft", "status"], "/x", "status"),
        (["--root"], "", ""),
        (["--help", "drain"], None, "drain"),
        (["-h"], None, "-h"),
    ],
)
def test_how_a_command_line_begins(words: list[str], root: str | None, command: str) -> None:
    assert arguments.beginning(words) == (root, command)


@pytest.mark.parametrize("waits", [True, False])
def test_an_agent_that_ends_leaves_what_a_first_change_needs(tmp_path: Path, waits: bool) -> None:
    """Nothing is declared before that is confirmed, as on a host that it has outlived a removal on."""
    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    kept = [paths.run / name for name in (store.NORMAL, store.BEFORE, store.HEALTH, store.TOTALS)]
    for path in kept:
        store.write_text(path, "{}")
    if waits:
        store.write_text(paths.run / rollback.DIRECTORY.format(token="1") / "pending", "1e12")
    main._leave_nothing(paths)
    assert [path.exists() for path in (*kept, paths.run / "lock")] == [waits] * 5


def test_an_interruption_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(main.RUNS, "version", interrupted)
    assert main.main(["version"]) == commands.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_a_trace_is_of_one_pair() -> None:
    """The parser's own usage would offer several, which are refused."""
    (found,) = (action for action in arguments.parser()._actions if isinstance(action.choices, dict))
    usage = found.choices["trace"].format_usage()
    assert " ".join(usage.split()) == (
        "usage: natlb trace [-h] CLIENT TARGET [--interface NAME] [--no-contact] [--live] [--for SECONDS] [--json]"
    )
