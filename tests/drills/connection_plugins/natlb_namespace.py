# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run tasks in a host of the fleet (fleet.py), for as long as a real connection to it can be opened."""

from __future__ import annotations

DOCUMENTATION = """
name: natlb_namespace
short_description: Run tasks in the namespaces of a process
description:
  - Opens a TCP connection to the host, as ssh would, and then enters the namespaces of the process that is the host.
author: natlb contributors (@natlb)
extends_documentation_fragment:
  - connection_pipelining
options:
  address:
    description: Where the host listens.
    type: str
    vars:
      - name: ansible_host
  port:
    description: The port there.
    type: int
    vars:
      - name: ansible_port
  pid:
    description: The process that is the host.
    type: int
    vars:
      - name: fleet_pid
  uid:
    description: As whom a task runs that does not become somebody else.
    type: int
    default: 0
    vars:
      - name: fleet_uid
"""

import pathlib
import socket
import subprocess

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

CONNECT_TIMEOUT_S = 1.0


class Connection(ConnectionBase):
    """A host that is reached by the way that its rules leave open."""

    transport = "natlb_namespace"
    has_pipelining = True

    def _connect(self) -> Connection:
        if not self._connected:
            address = (self.get_option("address"), self.get_option("port"))
            try:
                with socket.create_connection(address, CONNECT_TIMEOUT_S) as sock:
                    sock.settimeout(CONNECT_TIMEOUT_S)
                    greeting = sock.recv(64)
            except OSError as error:
                raise AnsibleConnectionFailure(f"{address}: {error}") from error
            if greeting != b"fleet\n":
                raise AnsibleConnectionFailure(f"{address}: closed at once")
            self._connected = True
        return self

    def reset(self) -> None:
        self.close()
        self._connect()

    def close(self) -> None:
        self._connected = False

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        enter = ["nsenter", f"--target={self.get_option('pid')}", "--net", "--mount", "--pid"]
        uid = self.get_option("uid")
        # What sudo would do, which cannot be set up here.
        if uid and "BECOME-SUCCESS" not in cmd:
            enter += ["setpriv", f"--reuid={uid}", "--clear-groups"]
        done = subprocess.run([*enter, "sh", "-c", cmd], input=in_data or b"", capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        code, _out, complaint = self.exec_command(f"cat > '{out_path}'", pathlib.Path(in_path).read_bytes())
        if code:
            raise AnsibleConnectionFailure(complaint.decode())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        _code, out, _complaint = self.exec_command(f"cat '{in_path}'")
        pathlib.Path(out_path).write_bytes(out)
