# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks over TLS. Only they import this: OpenSSL takes two MiB of an agent's memory."""

from __future__ import annotations

import selectors
import ssl

from .attempt import READ, WRITE, Done
from .http import server_name
from .question import Question
from .state import Outcome
from .stream import Conversation, Talk

#: By whether certificates are verified.
Contexts = dict[bool, ssl.SSLContext]


def context(verify: bool) -> ssl.SSLContext:
    """TLS with the certificate authorities of this host, or with none at all."""
    found = ssl.create_default_context()
    if not verify:
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
        # Who asks for no proof takes what old backends can.
        found.set_ciphers("DEFAULT:@SECLEVEL=0")
        found.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    return found


class SecureConversation(Conversation):
    """The same through TLS. Contexts are made when they are first needed, and kept in `contexts`."""

    __slots__ = ("_context", "_stream")

    def __init__(
        self, question: Question, selector: selectors.BaseSelector, done: Done, talk: Talk, contexts: Contexts
    ) -> None:
        super().__init__(question, selector, done, talk)
        verify = question.health.verify
        if verify not in contexts:
            contexts[verify] = context(verify)
        self._context = contexts[verify]
        #: The TLS layer while its handshake goes on.
        self._stream: ssl.SSLSocket | None = None

    def _ready(self, mask: int) -> None:
        try:
            super()._ready(mask)
        except ssl.SSLWantReadError:
            self._wait(READ)
        except ssl.SSLWantWriteError:
            self._wait(WRITE)
        except ssl.SSLCertVerificationError as error:
            self._finish(Outcome("down", f"{self._doing} {self._question.target}: {error.verify_message}"))
        except ssl.SSLError as error:
            words = (error.reason or str(error)).replace("_", " ").lower()
            self._finish(Outcome("down", f"{self._doing} {self._question.target}: {words}"))

    def _begin(self) -> None:
        peer = self._socket
        if peer is None:
            return
        self._doing = "TLS with"
        self._selector.unregister(peer)
        self._mask = 0
        name = server_name(self._question.health.host or self._question.address)
        self._socket = self._stream = self._context.wrap_socket(
            peer, do_handshake_on_connect=False, server_hostname=name
        )
        self._wait(WRITE)

    def _ask(self) -> None:
        if self._stream is not None:
            self._stream.do_handshake()
            self._stream = None
        super()._ask()
