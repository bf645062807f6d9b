# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb watch`: what happens on this host, as it happens.

The agent tells what it finds and whose commits it meets. Without it, commits are noticed here. Files are looked at, and
counters read, at an interval that grows with what a reading costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import shutil
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from ..errors import HostError
from ..health.inquiries import Followed
from ..host import commits, left, store
from ..host.left import Away
from ..host.store import Paths
from ..model.choices import Variant
from ..plan import agent_files, overlay, waiting
from ..plan import request as requests
from ..plan.request import Request
from ..status import news, watch_view
from ..status.activity import Meter, Reading, spent_s
from ..status.news import News
from ..status.watch_view import View
from . import commands

#: The part of one processor that readings may take.
BUSY = 0.05
#: How many news a screen remembers.
_KEPT = 200


class Output(Protocol):
    """Where it goes."""

    def tell(self, item: News) -> None:
        """Something has happened."""

    def show(self, view: View, head: str) -> None:
        """There is a new reading."""


class Lines:
    """A line for each event, for a file, a pipe or a program."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._before: Reading | None = None

    def tell(self, item: News) -> None:
        """See `Output`."""
        now = time.gmtime() if self._json else time.localtime()
        if self._json:
            said = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", now), "event": item.kind, "message": item.message}
            line = json.dumps({**said, **item.fields})
        else:
            line = f"{time.strftime('%Y-%m-%d %H:%M:%S', now)} {item.message}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def show(self, view: View, _head: str) -> None:
        """See `Output`."""
        for item in watch_view.counters(view, self._before):
            self.tell(item)
        self._before = view.reading


class Screen:
    """A terminal, drawn again at each reading and each event."""

    def __init__(self) -> None:
        self._news: deque[str] = deque(maxlen=_KEPT)
        self._shown: tuple[View, str] | None = None
        # The other screen of the terminal, without its cursor: what stood there comes back at the end.
        self._write("\033[?1049h\033[?25l")

    def tell(self, item: News) -> None:
        """See `Output`."""
        self._news.append(f"{time.strftime('%H:%M:%S')} {item.message}")
        if self._shown is not None:
            self.show(*self._shown)

    def show(self, view: View, head: str) -> None:
        """See `Output`."""
        self._shown = view, head
        width, height = shutil.get_terminal_size()
        title = f"{socket.gethostname()} {time.strftime('%H:%M:%S')}  {head}"
        # What is written to the last column may be erased by what erases the rest of the line.
        lines = watch_view.screen(title, view, list(self._news), width - 1, height)
        self._write("\033[H" + "\n".join(f"{line}\033[K" for line in lines) + "\033[J")

    def close(self) -> None:
        """Give the terminal back."""
        self._write("\033[?25h\033[?1049l")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class Watch:
    """One watch. `look` reads what there is; `wait` tells what others say meanwhile."""

    def __init__(self, paths: Paths, variant: Variant | None, service: str | None, output: Output) -> None:
        self._paths, self._variant, self._service, self._output = paths, variant, service, output
        self._selector = selectors.DefaultSelector()
        self._agent: Followed | None = None
        self._commits: commits.Commits | None = None
        self._stamp: Any = None
        self._overlay_stamp: Any = None
        self._began = False
        self._left: Away | None = None
        self._read()
        if service is not None and not self._view.config.services:
            raise HostError(f"service {service}: not declared on this host (see natlb status)")

    def close(self) -> None:
        """End it."""
        if self._agent is not None:
            self._agent.close()
        self._selector.close()

    def follow_commits(self, found: commits.Commits) -> None:
        """They are told while the agent does not."""
        self._commits = found
        self._selector.register(found, selectors.EVENT_READ)

    def _read(self) -> None:
        """Read the declaration."""
        self._stamp = self._declared()
        self._request: Request = requests.restored(waiting.live(self._paths), self._variant)[0]
        config = watch_view.limited(self._request.config, self._service)
        self._names = news.names_of(config)
        self._meter = Meter(self._request, config) if config.services else None
        laid = overlay.read(self._request)
        self._view = View(config, laid.overrides, laid.findings)
        self._overlay_stamp = self._laid()

    def _declared(self) -> Any:
        live = waiting.live(self._paths)
        path = store.state_path(live)
        return path, live.staged.get(path) if path else None, store.stamp(path) if path else None

    def _laid(self) -> Any:
        folders = (self._paths.etc, self._paths.run)
        return [store.stamp(folder / name) for folder in folders for name in (store.OVERRIDES, store.HEALTH)]

    # -- looking -----------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Read what there is, and tell what is new of it."""
        self._meet_agent()
        before = self._view
        if not self._began:
            self._began = True
            bad = {place: finding for place, finding in before.findings.items() if finding.state != "up"}
            self._tell([News("start", self._head())])
            self._tell(news.of_findings({}, bad, self._names, before.config.services))
            self._tell(news.of_overrides({}, before.overrides, self._names))
        self._tell(self._leaving())
        if self._declared() != self._stamp:
            self._read()
            self._tell(news.of_declarations(before.config, self._view.config))
        elif self._laid() != self._overlay_stamp:
            self._overlay_stamp = self._laid()
            laid = overlay.read(self._request)
            self._view = self._view._replace(overrides=laid.overrides, findings=laid.findings)
        now = self._view
        self._tell(news.of_overrides(before.overrides, now.overrides, self._names))
        if self._agent is None:
            self._tell(news.of_findings(before.findings, now.findings, self._names, now.config.services))
        if self._meter is not None:
            reading = self._meter.read()
            rates = reading.rates(before.reading) if before.reading else None
            self._view = now._replace(reading=reading, rates=rates)
        self._output.show(self._view, self._head())

    def _head(self) -> str:
        engine = self._meter.engine.name if self._meter else "nothing is declared"
        down = sum(item.state == "down" for place, item in self._view.findings.items() if place in self._names)
        agent = "no agent" if self._agent is None else f"agent: {down} down" if down else "agent: all up"
        return f"{engine}, {agent}, {len(self._view.overrides)} overrides"

    def _leaving(self) -> Iterator[News]:
        """Whether an operator has taken the host out, or brought it back."""
        before, self._left = self._left, left.read(self._paths)
        if before != self._left:
            yield News("host", str(self._left) if self._left else "this host is back (natlb join)")

    def _meet_agent(self) -> None:
        if self._agent is not None and not self._agent.ended:
            return
        had, self._agent = self._agent is not None, None
        with contextlib.suppress(HostError):
            self._agent = Followed(self._paths.run / store.AGENT_SOCKET)
            self._selector.register(self._agent, selectors.EVENT_READ)
        if self._agent is None and (had or (not self._began and agent_files.runs(self._request))):
            self._tell([News("agent", "the agent does not answer: nobody checks backends, and nobody restores rules")])
        elif self._agent is not None and self._began:
            self._tell([News("agent", "the agent answers")])

    def _tell(self, items: Iterable[News]) -> None:
        for item in items:
            if self._service is None or watch_view.concerns(item, [self._service]):
                self._output.tell(item)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, until: float) -> None:
        """Tell what others say, until this moment of the monotonic clock."""
        while time.monotonic() < until:
            for key, _mask in self._selector.select(max(0.0, until - time.monotonic())):
                self._tell(self._heard(key.fileobj))

    def _heard(self, peer: Any) -> Iterator[News]:
        if peer is self._commits:
            told = self._commits.drain() and self._agent is None
            yield from (News("rules", f"{who} has changed rules") for who in self._commits.by if told)
            engine = self._meter.engine if self._meter else None
            if told and engine is not None and engine.is_numbered and engine.is_gone():
                yield News("rules", "the rules of natlb are gone (natlb apply puts them back)")
            return
        yield from map(news.of_agent, peer.events())
        if peer.ended:
            self._selector.unregister(peer)
            peer.close()


def _end(number: int, _frame: Any) -> None:
    """What is drawn on a terminal is to be taken back first."""
    raise SystemExit(128 + number)


def watch(parsed: argparse.Namespace, paths: Paths) -> int:
    """Watch until a bound is reached. Ctrl-C ends it as well."""
    bound = vars(parsed)["for"]
    end = None if bound is None else time.monotonic() + bound
    signal.signal(signal.SIGTERM, _end)
    with contextlib.ExitStack() as stack:
        output: Output = Lines(parsed.json)
        if sys.stdout.isatty() and not parsed.json:
            output = stack.enter_context(contextlib.closing(Screen()))
        found = stack.enter_context(contextlib.closing(Watch(paths, parsed.variant, parsed.service, output)))
        with contextlib.suppress(OSError):
            found.follow_commits(stack.enter_context(commits.followed()))
        turns = parsed.count
        while True:
            began, spent = time.monotonic(), spent_s()
            try:
                found.poll()
            except HostError as error:
                output.tell(News("error", f"{error}; trying again"))
            turns = None if turns is None else turns - 1
            due = began + max(parsed.interval, (spent_s() - spent) / BUSY)
            if turns == 0 or (end is not None and time.monotonic() >= end):
                return commands.DONE
            found.wait(due if end is None else min(due, end))
