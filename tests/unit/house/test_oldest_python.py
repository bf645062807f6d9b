# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on targets is read by the oldest Python that they may have. (What it does there: tests/kernel.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(CHECKOUT / "tests"))
import oldest_python  # noqa: E402

MODULE_UTILS = CHECKOUT / "plugins" / "module_utils"
COMPILE = "import pathlib, sys; [compile(pathlib.Path(name).read_text(), name, 'exec') for name in sys.argv[1:]]"
#: Each by itself, since one may only work because another has been there before.
IMPORT = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    for loaded in [module for module in sys.modules if module.startswith("_natlb")]:
        del sys.modules[loaded]
    importlib.import_module(name)
print(sys.version_info[:2])
"""


def run(*words: str, keep: Path | None = None) -> str:
    """What is compiled is written down nowhere, or in the folder `keep`."""
    how = "-B" if keep is None else f"-Xpycache_prefix={keep}"
    argv = [oldest_python.find(), "-I", how, "-c", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_that_targets_run_is_valid() -> None:
    files = [*MODULE_UTILS.rglob("*.py"), *CHECKOUT.glob("plugins/modules/*.py")]
    assert len(files) > 40
    run(COMPILE, *map(str, files))


def test_the_core_can_be_imported(tmp_path: Path) -> None:
    files = [path.relative_to(MODULE_UTILS) for path in (MODULE_UTILS / "_natlb").rglob("*.py")]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    assert run(IMPORT, str(MODULE_UTILS), *names, keep=tmp_path) == "(3, 9)\n"


@pytest.mark.parametrize("line", ["match x:\n  case 1: pass", "type X = int"])
def test_newer_syntax_is_told(line: str, tmp_path: Path) -> None:
    (tmp_path / "newer.py").write_text(line)
    with pytest.raises(AssertionError, match=r"(?s)newer\.py.*SyntaxError"):
        run(COMPILE, str(tmp_path / "newer.py"))
