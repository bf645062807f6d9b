# Copyright: natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run tasks in a podman container, with pipelining: one `podman exec` a task."""

from __future__ import annotations

DOCUMENTATION = """
name: natlb_podman
short_description: Run tasks in a podman container of the lab
description:
  - Runs commands with C(podman exec) and copies files through its standard input and output.
  - Modules are fed to the interpreter's standard input, so a task costs one call and leaves no file behind.
author: natlb contributors
extends_documentation_fragment:
  - connection_pipelining
options:
  container:
    description: Name of the container.
    type: str
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: lab_container
"""

import pathlib
import shlex
import subprocess

from ansible.errors import AnsibleConnectionFailure, AnsibleFileNotFound
from ansible.plugins.connection import ConnectionBase


class Connection(ConnectionBase):
    """A container on this machine. It runs already: there is nothing to connect to and nothing to keep open."""

    transport = "natlb_podman"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def close(self) -> None:
        self._connected = False

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._podman_exec(cmd, in_data)

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        source = pathlib.Path(in_path)
        if not source.exists():
            raise AnsibleFileNotFound(f"there is no file {in_path}")
        self._check(self._podman_exec(f"cat > {shlex.quote(out_path)}", source.read_bytes()), out_path)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        content = self._check(self._podman_exec(f"cat {shlex.quote(in_path)}", None), in_path)
        pathlib.Path(out_path).write_bytes(content)

    def _podman_exec(self, command: str, in_data: bytes | None) -> tuple[int, bytes, bytes]:
        container = self.get_option("container")
        done = subprocess.run(
            ["podman", "exec", "--interactive", container, "/bin/sh", "-c", command],
            input=in_data or b"",
            capture_output=True,
            check=False,
        )
        # podman's own failures, as opposed to those of the command: no such container, container not running.
        if done.returncode == 125:
            raise AnsibleConnectionFailure(f"podman exec {container}: {done.stderr.decode(errors='replace').strip()}")
        return done.returncode, done.stdout, done.stderr

    @staticmethod
    def _check(result: tuple[int, bytes, bytes], path: str) -> bytes:
        status, out, err = result
        if status:
            raise AnsibleConnectionFailure(f"cannot transfer {path}: {err.decode(errors='replace').strip()}")
        return out
