# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that reach a user, each with its place and its remedy."""

from __future__ import annotations

from collections.abc import Sequence


class NatlbError(Exception):
    """Anything that stops a run and that a user can understand. Its text is the whole message."""


class ConfigError(NatlbError):
    """The declaration cannot be carried out.

    `path` is the place (`services[2].backends[0].port`), `problem` is what is wrong there, and `remedy` says what to
    write instead.
    """

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem} ({remedy})")
        self.path = path
        self.problem = problem
        self.remedy = remedy


class ConfigErrors(NatlbError):  # noqa: N818
    """Several `ConfigError`s, found in one reading."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors: list[ConfigError] = list(errors)


class HostError(NatlbError):
    """The host cannot do what the run needs: a program or a right is missing, or the kernel refused."""


class UnknownBackendError(HostError):
    """No service of this host has the backend, or the host has no such service."""


class CommandsError(HostError):
    """One of several commands failed. `done` commands succeeded before it, so `done` is also its index."""

    def __init__(self, message: str, done: int) -> None:
        super().__init__(message)
        self.done = done


class MinActiveError(HostError):
    """Refused: too few backends would be left to serve."""


class BusyError(HostError):
    """Another change is under way, or waits for its confirmation."""


class OtherVersionError(BusyError):
    """That is a change by another version of natlb. `program` is the text of the program that it brings."""

    def __init__(self, program: str) -> None:
        super().__init__("a change by another version of natlb waits for its confirmation")
        self.program = program
