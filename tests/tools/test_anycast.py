# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of the role `anycast` that puts addresses on `lo`, in a network namespace with a `natlb` that says what a
test wants."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

ROLE = Path(__file__).parents[2] / "roles" / "anycast"
FOUR, SIX, MORE = "203.0.113.10/32", "2001:db8:113::10/128", "203.0.113.11/32"


def rendered(template: str, **settings: Any) -> str:
    """What the role makes of one of its templates."""
    given = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string((ROLE / "templates" / template).read_text()).render({**given, **settings})


def wait_for(is_so: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def asked(folder: Path, *neighbors: str, addresses: tuple[str, ...] = ()) -> set[str]:
    """What a host with these addresses on `lo`, whose files are in this folder, answers the role."""
    given = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    for name in ("file", "list", "script", "unit_file", "program", "folder"):
        given[f"natlb_anycast_{name}"] = str(folder / name)
    given["natlb_anycast_bird_file"] = str(folder / "bird.service.d" / "natlb.conf")
    given["natlb_anycast_neighbors"] = [{"address": address} for address in neighbors]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["dirname"] = os.path.dirname
    question = "{{ natlb_anycast_question }}"
    while "{{" in question:
        question = environment.from_string(question).render(given)
    lines = f'for address; do ip address add "$address" dev lo; done; ip link set lo up; {question}'
    inside = ["unshare", "--net", "sh", "-c", lines, "sh", *addresses]
    answer = subprocess.run(inside, text=True, stdout=subprocess.PIPE, check=True).stdout.split("\n")
    return {line for line in answer if line and line not in ("bird", "answers", "systemd")}


@pytest.mark.parametrize("answered", ["", "systemd"])
def test_a_host_without_systemd_is_refused(answered: str) -> None:
    """Before anything is changed: what is in the way is looked at first."""
    tasks = yaml.safe_load((ROLE / "tasks" / "present.yml").read_text())
    assert tasks[0]["ansible.builtin.assert"]["that"] == "natlb_anycast_obstacles | length == 0"
    given = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    given |= {"natlb_anycast_answer": [answered, "bird", "program"], "natlb_anycast_taken": []}
    found = NativeEnvironment().from_string(given["natlb_anycast_obstacles"]).render(given)
    said = (
        "systemd: does not run on this host, and units of it announce the addresses "
        "(run the balancer on a host with systemd, or announce them by other means)"
    )
    assert [" ".join(one.split()) for one in found] == ([] if answered else [said])


LOOPBACK = {"lo 127.0.0.1/8", "lo ::1/128"}


def test_whatever_is_left_is_ours(tmp_path: Path) -> None:
    """A run or a removal that broke off has left only some of the files."""
    assert asked(tmp_path) == LOOPBACK
    for name, words in (("list", set()), ("script", set()), ("unit_file", {"unit"}), ("folder", set())):
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).touch()
        # Shells differ in whether a file is newer than one that is not there.
        assert asked(tmp_path) - LOOPBACK - {"stale"} == {"ours", *words}
        (tmp_path / name).rmdir() if name == "folder" else (tmp_path / name).unlink()
    (tmp_path / "file").write_text("# of somebody else\n")
    (tmp_path / "list").touch()
    assert asked(tmp_path) - LOOPBACK == {"ours", "foreign"}
    mark = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["natlb_anycast_mark"]
    (tmp_path / "file").write_text(f"{mark}\n")
    assert asked(tmp_path) - LOOPBACK == {"ours", "configured"}


def test_a_program_that_runs_as_it_is_written_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, seconds in (("script", 1), ("unit_file", 2), ("folder/started", 3)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert {"current", "stale"} & asked(tmp_path) == {"current"}
    os.utime(tmp_path / "script", (4, 4))
    assert {"current", "stale"} & asked(tmp_path) == {"current", "stale"}


def test_addresses_of_others_and_the_way_to_a_router_are_known(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "added").write_text(f"{FOUR}\n")
    found = asked(tmp_path, "203.0.113.11", "2001:db8::1", addresses=(FOUR, MORE))
    assert found == {"ours", "lo 203.0.113.11/32", "towards 203.0.113.11", *LOOPBACK}


class Host:
    """A namespace with the program in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "run"
        self.notes.mkdir()
        (folder / "natlb").write_text(f"#!/bin/sh\necho asked >>{folder}/asked\ntest -e {folder}/ready\n")
        (folder / "natlb").chmod(0o755)
        self.declare(FOUR, SIX)
        self._script = folder / "natlb-anycast"
        settings = {
            "natlb_anycast_check_interval": 0.05,
            "natlb_anycast_list": folder / "addresses",
            "natlb_anycast_folder": self.notes,
            "natlb_anycast_program": folder / "natlb",
            "natlb_anycast_left": folder / "left",
        }
        self._script.write_text(rendered("natlb-anycast.sh.j2", **settings))
        self._namespace = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        wait_for(lambda: self._entered("readlink", "/proc/self/ns/net") != self._own(), lambda: "no namespace")
        self._watch: subprocess.Popen[bytes] | None = None

    def _own(self) -> str:
        return subprocess.run(["readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True).stdout

    def _enter(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._namespace.pid}/ns/net", *argv]

    def _entered(self, *argv: str) -> str:
        return subprocess.run(self._enter(*argv), capture_output=True, text=True, check=False).stdout

    def run(self, *argv: str) -> None:
        subprocess.run(self._enter(*argv), check=True, capture_output=True)

    def declare(self, *addresses: str) -> None:
        (self.folder / "addresses").write_text("".join(f"{address}\n" for address in addresses))

    def be(self, ready: bool) -> None:
        (self.folder / "ready").touch() if ready else (self.folder / "ready").unlink()

    def watch(self) -> None:
        with (self.folder / "said").open("ab") as said:
            self._watch = subprocess.Popen(self._enter("sh", str(self._script), "watch"), stdout=said, stderr=said)

    def end(self, kill: bool = False) -> None:
        if self._watch:
            self._watch.kill() if kill else self._watch.terminate()
            self._watch.wait()
        self._watch = None

    def close(self) -> None:
        self.end()
        self._namespace.kill()
        self._namespace.wait()

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def there(self) -> set[str]:
        return {
            line.split()[3] for line in self._entered("ip", "-oneline", "address", "show", "dev", "lo").splitlines()
        }

    def noted(self) -> set[str]:
        file = self.notes / "added"
        return set(file.read_text().split()) if file.exists() else set()

    def wait_for(self, *addresses: str) -> None:
        wait_for(lambda: self.there() == {*addresses}, lambda: f"{self.there()}\n{self.said()}")

    def wait_for_words(self, words: str) -> None:
        wait_for(lambda: words in self.said(), self.said)

    def wait_for_questions(self, count: int) -> None:
        asked = self.folder / "asked"

        def number() -> int:
            return len(asked.read_text().splitlines()) if asked.exists() else 0

        before = number()
        wait_for(lambda: number() >= before + count, self.said)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    yield found
    found.close()


def test_addresses_come_and_go(host: Host) -> None:
    host.watch()
    host.wait_for_questions(4)
    assert host.there() == set()
    host.be(ready=True)
    host.wait_for(FOUR, SIX)
    host.declare(MORE, SIX)
    host.wait_for(MORE, SIX)
    wait_for(lambda: host.noted() == {MORE, SIX}, host.said)
    # Killed and started anew, it goes on with what is there.
    host.end(kill=True)
    assert host.there() == {MORE, SIX}
    host.be(ready=False)
    host.watch()
    host.wait_for()
    host.be(ready=True)
    host.wait_for(MORE, SIX)
    host.end()
    assert host.there() == host.noted() == set()


def test_one_that_leaves_does_not_wait(host: Host) -> None:
    host.be(ready=True)
    host.watch()
    host.wait_for(FOUR, SIX)
    (host.folder / "left").touch()
    host.be(ready=False)
    host.wait_for()
    host.wait_for_questions(2)
    assert host.said().count("withdrawn") == 2


def test_an_address_that_cannot_be_added_keeps_no_other_one(host: Host) -> None:
    """All IPv6 addresses of a host without IPv6. The others come, and go again."""
    host.run("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1")
    host.declare(SIX, FOUR)
    host.be(ready=True)
    host.watch()
    host.wait_for(FOUR)
    host.wait_for_words(f"{SIX} could not be put on lo, and is not announced: ")
    host.wait_for_questions(3)
    assert host.said().count(f"{SIX} could not be put") == 1
    wait_for(lambda: host.noted() == {FOUR}, host.said)
    host.be(ready=False)
    host.wait_for()
    host.be(ready=True)
    host.wait_for(FOUR)
    # It comes once it can.
    host.run("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")
    wait_for(lambda: SIX in host.there(), host.said)
    host.end()
    assert host.there() & {FOUR, SIX} == set()


def test_an_address_of_others_stays(host: Host) -> None:
    host.run("ip", "address", "add", FOUR, "dev", "lo")
    host.be(ready=True)
    host.watch()
    host.wait_for(FOUR, SIX)
    host.wait_for_words(f"{FOUR} is on lo and was not put there by this program")
    wait_for(lambda: host.noted() == {SIX}, host.said)
    host.be(ready=False)
    host.wait_for(FOUR)
    host.end()
    assert host.there() == {FOUR}


def test_an_address_that_others_take_away_comes_back(host: Host) -> None:
    host.be(ready=True)
    host.watch()
    host.wait_for(FOUR, SIX)
    host.run("ip", "address", "delete", FOUR, "dev", "lo")
    host.wait_for_questions(2)
    host.wait_for(FOUR, SIX)
    host.end()
    assert host.there() == host.noted() == set()
