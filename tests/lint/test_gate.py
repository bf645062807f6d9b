"""What stands between a collection and its users: Galaxy's importer, licences, release notes, and linters on what is
installed. Each looks at the archive that `make build` makes, or at a copy of the files that git knows."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import tarfile

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(folder: pathlib.Path, *argv: str, **environment: str) -> str:
    """What a program prints, in a folder that is not the checkout and with an ANSIBLE_HOME of its own."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    inherited |= {"ANSIBLE_HOME": str(folder / ".home"), "NO_COLOR": "1"}
    done = subprocess.run(
        argv,
        cwd=folder,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(argv)} exited with {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the files that git knows or could know."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists() or (ROOT / name).is_symlink():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "source" / name, follow_symlinks=False)
    return tmp_path / "source"


@pytest.fixture
def archive(source: pathlib.Path) -> pathlib.Path:
    run(source.parent, "ansible-galaxy", "collection", "build", str(source), "--output-path", str(source.parent))
    (found,) = source.parent.glob("natlb-netfilter-*.tar.gz")
    return found


def test_galaxy_imports_the_archive_without_a_warning(archive: pathlib.Path) -> None:
    said = run(archive.parent, "python", "-m", "galaxy_importer.main", archive.name, GALAXY_IMPORTER_CONFIG="/dev/null")
    assert "Loading role balancer" in said
    assert "Linting collection via ansible-lint" in said
    assert "Importer processing completed successfully" in said
    assert not re.findall(r"^(?:WARNING|ERROR).*", said, re.MULTILINE), said


def test_a_linter_finds_nothing_in_an_installed_copy(archive: pathlib.Path) -> None:
    run(archive.parent, "ansible-galaxy", "collection", "install", "--offline", archive.name, "--collections-path", ".")
    installed = archive.parent / "ansible_collections" / "natlb" / "netfilter"
    said = run(
        installed, "ansible-lint", "--offline", "--profile=production", ANSIBLE_COLLECTIONS_PATH=str(archive.parent)
    )
    processed = re.search(r"(\d+) files processed", said)
    assert processed is not None, said
    assert int(processed[1]) > 50, said


def test_every_file_has_a_licence(source: pathlib.Path) -> None:
    run(source, "git", "init", "--quiet")
    assert "compliant" in run(source, "reuse", "lint")


def test_release_notes_come_out_of_the_fragments(source: pathlib.Path) -> None:
    assert run(source, "antsibull-changelog", "lint") == ""
    run(source, "antsibull-changelog", "release", "--version", "0.1.0", "--date", "2026-01-01")
    notes = (source / "CHANGELOG.md").read_text()
    released = yaml.safe_load((source / "changelogs" / "changelog.yaml").read_text())["releases"]["0.1.0"]
    assert sorted(released["fragments"]) == sorted(path.name for path in (ROOT / "changelogs" / "fragments").iterdir())
    assert "natlb\\.netfilter\\.balancer \\- " in notes


def test_readme_names_only_what_is_shipped(archive: pathlib.Path) -> None:
    """Whoever reads it on Galaxy has the archive, not the checkout."""
    with tarfile.open(archive) as content:
        shipped = set(content.getnames())
    for readme in sorted(name for name in shipped if name.endswith(".md")):
        text = (ROOT / readme).read_text()
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            target = os.path.normpath(os.path.join(os.path.dirname(readme), link))
            assert target in shipped, f"{readme} links to {link}, which is not in the archive"
