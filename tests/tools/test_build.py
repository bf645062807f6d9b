"""`make build` as somebody who is not root."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOBODY = 65534
#: Says what it is asked for. The archive itself is built in test_collection.py.
GALAXY = '#!/bin/sh\necho "ansible-galaxy $*"\n'


@pytest.fixture
def checkout() -> Iterator[pathlib.Path]:
    """Of a checkout, what `make build` needs, and a program in the place of ansible-galaxy. Everybody may read it."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        galaxy = folder / ".venv" / "bin" / "ansible-galaxy"
        galaxy.parent.mkdir(parents=True)
        galaxy.write_text(GALAXY)
        for path in (galaxy, folder):
            path.chmod(0o755)
        yield folder


def test_an_archive_is_built_without_root(checkout: pathlib.Path) -> None:
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*drop, "make", "--no-print-directory", "build"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ansible-galaxy collection build --force\n"), done.stderr
