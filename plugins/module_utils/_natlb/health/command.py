# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks by a program on the balancer: its exit status says whether the backend is up."""

from __future__ import annotations

import os
import selectors
import signal

from ..errors import HostError
from ..host.children import Child
from .attempt import READ, Done
from .question import Question
from .state import Outcome

#: How often a program is looked at where the kernel cannot tell of its end.
_LOOK_S = 0.02
#: Of what it printed the last line is kept, for the reason. Whoever prints more than this has gone astray.
_KEPT, _MOST = 512, 1 << 20


class Command:
    """One run of a program."""

    __slots__ = ("_child", "_done", "_dying", "_last", "_printed", "_question", "_selector", "look_s")

    def __init__(self, question: Question, selector: selectors.BaseSelector, done: Done, dying: list[Child]) -> None:
        """Programs that were killed and are not gone yet are left in `dying`."""
        self._question, self._selector, self._done, self._dying = question, selector, done, dying
        self._child: Child | None = None
        self._last, self._printed = b"", 0
        self.look_s = 0.0

    def start(self) -> None:
        """As `attempt.Attempt`, like the others."""
        health, address, port = self._question
        shown = str(port or "")
        argv = [word.replace("{address}", address).replace("{port}", shown) for word in health.argv]
        try:
            child = Child(argv, health.user, {"NATLB_ADDRESS": address, "NATLB_PORT": shown})
        except HostError as error:
            self._done(Outcome("unasked", f"cannot run {error}"))
            return
        self._child = child
        self._selector.register(child.output, READ, self._read)
        if child.watch is None:
            self.look_s = _LOOK_S
        else:
            self._selector.register(child.watch, READ, lambda _mask: self.poll())

    def poll(self) -> None:
        child = self._child
        if child is None or not child.exited():
            return
        self._read_rest(child)
        # What it left behind goes with it, before its number is free.
        child.kill()
        status = child.reap()
        self.close()
        self._done(self._outcome(status or 0))

    @property
    def is_connecting(self) -> bool:
        """Nobody knows what a program waits for."""
        return False

    def late(self, within_s: float) -> None:
        self.close()
        self._done(Outcome("down", f"{self._name}: not done within {within_s:g} s"))

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for descriptor in (child.output, child.watch):
            if descriptor is not None and descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        child.kill()
        if child.reap() is None:
            self._dying.append(child)
        child.close()

    @property
    def _name(self) -> str:
        return os.path.basename(self._question.health.argv[0])

    def _read(self, _mask: int) -> None:
        child = self._child
        if child is None:
            return
        try:
            data = self._next(child)
        except BlockingIOError:
            return
        if not data:
            # It has closed its output, and may go on.
            self._selector.unregister(child.output)
        elif self._printed > _MOST:
            self.close()
            self._done(Outcome("down", f"{self._name}: printed more than {_MOST >> 20} MiB"))

    def _read_rest(self, child: Child) -> None:
        try:
            while self._printed <= _MOST and self._next(child):
                pass
        except BlockingIOError:
            # Something that it left behind could print more.
            pass

    def _next(self, child: Child) -> bytes:
        data = child.read()
        self._printed += len(data)
        self._last = (self._last + data)[-_KEPT:]
        return data

    def _outcome(self, status: int) -> Outcome:
        if status == 0:
            return Outcome("up", f"{self._name}: {self._said() or 'exit status 0'}")
        how = f"exit status {status}" if status > 0 else f"ended by {_signal(-status)}"
        said = self._said()
        return Outcome("down", f"{self._name}: {how}" + (f": {said}" if said else ""))

    def _said(self) -> str:
        lines = [line for line in self._last.decode(errors="replace").splitlines() if line.strip()]
        text = " ".join(lines[-1].split()) if lines else ""
        return "".join(letter if letter.isprintable() else "?" for letter in text)[:120]


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
