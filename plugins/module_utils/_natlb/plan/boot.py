# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the next boot finds: the rules, the declaration, units, and kernel settings. One part of a run's plan.

The rules are kept as they were rendered and validated, not as the kernel lists them. `boot` loads them before the
network is up; `boot-uplinks` adds routes, which need their interfaces, once it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..firewalls import forward
from ..host import boot_set, staging, store, units
from ..host.boot_set import CURRENT
from ..host.observation import Call, digest
from ..host.staging import Entry, Staging
from ..host.store import Content, Paths
from ..host.units import Orders, Status
from ..model.engine import Engine
from ..ruleset.sections import Key, Ruleset, Section
from ..warnings.boot_settings import SYSCTL_FILE
from . import agent_files, follower, overlay, routing, unit_files
from .overlay import Overlay, Record
from .parts import Part
from .request import Request, state_text
from .unit_files import UPLINKS_SCRIPT, Unit

SYSCTL = "sysctl.conf"
#: Names that an earlier version has left beside the links.
_FORMER = ("ruleset.nft", "ruleset.iptables", "ruleset.ip6tables", *forward.FILES)
_HEAD = f"#!/bin/sh\n{unit_files.WRITTEN}\nset -eu\n"


@dataclass(frozen=True)
class Boot:
    """What a boot finds: the set of files, other files and links by their paths, and the units.

    `owners` are those of paths that belong to somebody else than root. `systemd` says whether systemd runs here: only
    then units are ours to look after.
    """

    files: Mapping[str, Content] = field(default_factory=dict)
    entries: Mapping[Path, Entry] = field(default_factory=dict)
    owners: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    statuses: Mapping[str, Status] = field(default_factory=dict)
    unread: bool = False
    systemd: bool = False

    @property
    def record(self) -> Record:
        """What is kept of a run."""
        return Record(self._text(store.STATE), self._text(store.EFFECTIVE))

    def _text(self, name: str) -> str | None:
        kept = self.files.get(name)
        found = [entry for path, entry in self.entries.items() if path.name == name]
        return kept[0] if kept else next((entry[0] for entry in found if not isinstance(entry, str)), None)


@dataclass(frozen=True)
class Wanted:
    """What a boot is to find."""

    files: Mapping[str, Content]
    entries: Mapping[Path, Entry]
    units: Sequence[Unit]

    @property
    def record(self) -> Record:
        return Boot(self.files, self.entries).record


# -- what is there ---------------------------------------------------------------------------------------------------


#: What tells something else once systemd has carried out its orders.
MOVED = ("host.units.statuses", "host.staging.wants_folders")


def read(paths: Paths) -> Boot:
    """What the next boot of this host would find."""
    systemd = paths.system is not None and units.systemd_runs()
    found = {path: entry for path in _known(paths) for entry in [staging.read_entry(path)] if entry is not None}
    owners = {path: staging.owner(path) for path in found if paths.system in path.parents}
    return Boot(
        files=boot_set.read(paths.etc),
        entries=found,
        owners={path: owner for path, owner in owners.items() if owner is not None},
        statuses=units.statuses(unit_files.NAMES) if systemd else {},
        unread=systemd and store.exists(paths.run / store.RELOAD),
        systemd=systemd,
    )


def will_be_read(paths: Paths, staged: Staging) -> dict[Call, str]:
    """What readers of the host tell once this is in place, by their calls (`host/observation.py`)."""
    found = {}
    texts: dict[Path, Entry | None] = {**staged.before, **staged.after}
    for path, entry in texts.items():
        found["host.staging.read_entry", (str(path),)] = digest(entry)
        found["host.staging.owner", (str(path),)] = digest(None)
    if staged.files is not None:
        found["host.boot_set.read", (str(paths.etc),)] = digest(staged.files)
        texts[paths.etc / store.STATE] = staged.files.get(store.STATE)
        texts[paths.etc / CURRENT / store.EFFECTIVE] = staged.files.get(store.EFFECTIVE)
    for path, entry in texts.items():
        if not isinstance(entry, str):
            found["host.store.read_text", (str(path),)] = digest(entry and entry[0])
            found["host.store.exists", (str(path),)] = digest(entry is not None)
    if staged.orders.reload:
        found["host.store.exists", (str(paths.run / store.RELOAD),)] = digest(False)
    return found


def _known(paths: Paths) -> Iterable[Path]:
    """Every path that a run may have left, beside the set that boots."""
    yield paths.run / store.STATE
    yield from overlay.known(paths)
    yield from boot_set.links(paths.etc)
    yield from (paths.etc / name for name in _FORMER)
    if paths.system is None:
        return
    folder = _unit_folder(paths.system)
    yield from (folder / name for name in unit_files.NAMES)
    # Not by a pattern with the name in it: that would pass over links that lead nowhere.
    yield from (Path(wants, name) for wants in staging.wants_folders(folder) for name in unit_files.NAMES)
    yield from _setting_paths(paths.system)
    yield agent_files.command_path(paths.system)


def _unit_folder(system: Path) -> Path:
    return system / "etc/systemd/system"


def _setting_paths(system: Path) -> tuple[Path, Path]:
    """The files of sysctl.d(5) and modules-load.d(5)."""
    return system / "etc/sysctl.d" / SYSCTL_FILE, system / "etc/modules-load.d" / unit_files.MODULES_FILE


# -- what is to be there ---------------------------------------------------------------------------------------------


def wanted(
    engine: Engine,
    path: forward.ForwardPath,
    request: Request,
    rendered: Ruleset,
    settings: Mapping[str, str],
    live: Boot,
    laid: Overlay,
) -> Wanted:
    """What a boot is to find with this request; nothing where nothing is declared.

    `settings` are the kernel settings that the run makes. Where forwarding is not natlb's business those that are kept
    stay as they are, unless uplinks need settings of their own.
    """
    if request.config.empty:
        return Wanted({}, {}, [])
    records = {store.STATE: (state_text(request, engine.name), 0o600), **laid.record}
    beside = overlay.wanted(request, laid, live.entries)
    if not request.persist:
        return Wanted({}, {**beside, **{request.paths.run / name: text for name, text in records.items()}}, [])
    files = {**_scripts(engine, path, request, rendered), **agent_files.files(request, live.files), **records}
    if request.forwarding or routing.sysctls(request.config):
        files[SYSCTL] = (unit_files.sysctl_text(settings), 0o600)
    elif SYSCTL in live.files:
        files[SYSCTL] = live.files[SYSCTL]
    loads_modules = request.firewall == "accept" or engine.loads_modules
    etc = request.paths.etc
    has = (UPLINKS_SCRIPT in files, agent_files.unit(request, files))
    found = unit_files.units(etc, *has, loads_modules) if live.systemd else []
    entries: dict[Path, Entry] = {**beside, **boot_set.links(etc), **agent_files.command(request, files, live.entries)}
    if request.paths.system is not None and live.systemd:
        entries.update(_unit_entries(request.paths.system, found))
        sysctl, modules = _setting_paths(request.paths.system)
        loaded = unit_files.modules_text(SYSCTL in files, request.config.services)
        entries.update({modules: (loaded, 0o644)} if loaded else {})
        entries.update({sysctl: str(etc / CURRENT / SYSCTL)} if SYSCTL in files else {})
    return Wanted(files, entries, found)


def warnings(request: Request, live: Boot) -> list[str]:
    """What the next boot will not do."""
    agent = agent_files.warnings(request, live.systemd)
    if request.config.empty or not request.persist or request.paths.system is None or live.systemd:
        return agent
    script = request.paths.etc / store.BOOT
    remedy = f"have `sh {script}` run at boot, or set persist: false"
    return [*agent, f"persist: systemd does not run here, so no unit loads the rules at boot ({remedy})"]


def _scripts(engine: Engine, path: forward.ForwardPath, request: Request, rendered: Ruleset) -> dict[str, Content]:
    """The rules, and what loads them."""
    directory = str(request.paths.etc / CURRENT)
    texts, lines = engine.boot(rendered, directory)
    more, opening = path.boot(directory)
    found = {name: (text, 0o600) for name, text in {**texts, **more}.items()}
    # Of two jumps in FORWARD that one comes first which is made last; refusals are held back before connections pass.
    found[store.BOOT] = (_HEAD + "".join(f"{line}\n" for line in [*opening, *lines]), 0o700)
    uplinks = follower.script(request.config, request.paths.etc / UPLINKS_SCRIPT, request.paths.run)
    if uplinks:
        found[UPLINKS_SCRIPT] = (uplinks, 0o700)
    return found


def _unit_entries(system: Path, found: Iterable[Unit]) -> dict[Path, Entry]:
    """The files of units, and the links that enable them, as `systemctl enable` makes them."""
    folder = _unit_folder(system)
    entries: dict[Path, Entry] = {}
    for unit in found:
        entries[folder / unit.name] = (unit.text, 0o644)
        for target in unit.wanted_by:
            entries[folder / f"{target}.wants" / unit.name] = f"/etc/systemd/system/{unit.name}"
    return entries


# -- the difference --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a run changes of what boots: the part of its plan, what is staged for it, and the kept request before and
    after."""

    part: Part
    staging: Staging
    records: tuple[Record, Record]
    warnings: list[str]


def change(
    engine: Engine,
    path: forward.ForwardPath,
    request: Request,
    rendered: Ruleset,
    settings: Mapping[str, str],
    live: Boot,
    laid: Overlay,
) -> Change:
    """The way from what boots to what is to boot, see `wanted`."""
    wants = wanted(engine, path, request, rendered, settings, live, laid)
    live = replace(live, entries={**live.entries, **agent_files.left_metrics(live.record.request, request)})
    part, staged = difference(request.paths, live, wants)
    return Change(part, staged, (live.record, wants.record), warnings(request, live))


def difference(paths: Paths, live: Boot, wants: Wanted) -> tuple[Part, Staging]:
    """The part of the plan that shows what changes, and what is staged for it."""
    live = _without_those_of_others(paths, live, wants)
    changed = {
        path
        for path in live.entries.keys() | wants.entries.keys()
        if live.entries.get(path) != wants.entries.get(path) or path in live.owners
    }
    orders = _orders(live, wants, changed)
    before, after = _order(live, wants, changed)
    files = wants.files if dict(live.files) != dict(wants.files) else None
    staged = Staging(files, before, after, orders, oneshots=(unit_files.MAIN, unit_files.RESTORE))

    def reread() -> Ruleset:
        return _sections(paths, _without_those_of_others(paths, read(paths), wants), wants)

    return Part(_sections(paths, live, wants), _wanted_sections(paths, live, wants), reread=reread), staged


def _without_those_of_others(paths: Paths, live: Boot, wants: Wanted) -> Boot:
    """Leaves out what is not looked after: links by which somebody enables one of our units in more ways, and, where
    systemd does not run, what is there for it, unless everything goes."""
    names = {unit.name for unit in wants.units}
    without_systemd = bool(wants.files) and not live.systemd

    def is_ours(path: Path) -> bool:
        one_more = path.parent.suffix == ".wants" and path.name in names
        return path in wants.entries or not (one_more or (without_systemd and paths.system in path.parents))

    ours = {p: e for p, e in live.entries.items() if is_ours(p) and not agent_files.is_of_others(p, e)}
    return replace(live, entries=ours)


def _order(
    live: Boot, wants: Wanted, changed: Iterable[Path]
) -> tuple[dict[Path, Entry | None], dict[Path, Entry | None]]:
    """What is put in place before the set of files is switched, and what behind it.

    A unit whose sandbox gets narrower may still have to load the former rules, and one that gets wider the new ones.
    """
    narrower = {unit.name for unit in wants.units if not unit.loads_modules}
    before: dict[Path, Entry | None] = {}
    after: dict[Path, Entry | None] = {}
    for path in sorted(changed):
        entry = wants.entries.get(path)
        is_unit = not isinstance(entry, str) and path.name in narrower
        late = entry is None or (is_unit and path in live.entries)
        (after if late else before)[path] = entry
    return before, after


def _orders(live: Boot, wants: Wanted, changed: Iterable[Path]) -> Orders:
    if not live.systemd:
        return Orders()
    written = {path.name for path in changed if path.name in unit_files.NAMES}
    new_texts = {
        path.name for path in changed if path.name in written and not isinstance(wants.entries.get(path, ""), str)
    }
    restart = [
        unit.name
        for unit in wants.units
        if unit.restarted
        and (
            unit.name in new_texts
            or (live.statuses[unit.name].active and any(_differs(live, wants, name) for name in unit.follows))
        )
    ]
    active = [name for name, status in live.statuses.items() if status.active]
    names = {unit.name for unit in wants.units}
    return Orders(
        stop=tuple(name for name in active if name not in names),
        reload=bool(written) or live.unread or any(status.stale for status in live.statuses.values()),
        start=tuple(u.name for u in wants.units if u.started and u.name not in (*active, *restart)),
        restart=tuple(restart),
        active=tuple(active),
    )


def _differs(live: Boot, wants: Wanted, name: str) -> bool:
    return live.files.get(name) != wants.files.get(name)


# -- as sections of a diff -------------------------------------------------------------------------------------------


def _sections(paths: Paths, live: Boot, wants: Wanted) -> Ruleset:
    """What is there, as it shows up in a diff."""
    found = {**_file_sections(paths, live.files), **_entry_sections(paths, live.entries)}
    for path, (user, group) in live.owners.items():
        if path in live.entries:
            section = found[_key(path)]
            found[_key(path)] = Section((*section.header, f"owner {user}:{group}"), section.body)
    started = {unit.name for unit in wants.units if unit.started}
    kept = {unit.name for unit in wants.units}
    for name, status in live.statuses.items():
        old = ("older than its file",) if status.stale else ()
        if name in started or old or (status.active and name not in kept):
            found[Key("", "", "unit", name)] = Section(old, ("active" if status.active else "inactive",))
    if live.unread:
        found[Key("", "", "unit", "systemd")] = Section((), ("has not read its units since they were written",))
    return found


def _wanted_sections(paths: Paths, live: Boot, wants: Wanted) -> Ruleset:
    """What is to be there. Units that nobody starts may be active or not."""
    found = {**_file_sections(paths, wants.files), **_entry_sections(paths, wants.entries)}
    for unit in wants.units:
        status = live.statuses[unit.name]
        if unit.started or status.stale:
            found[Key("", "", "unit", unit.name)] = Section(
                (), ("active" if unit.started or status.active else "inactive",)
            )
    return found


def _file_sections(paths: Paths, files: Mapping[str, Content]) -> Ruleset:
    return {_key(paths.etc / CURRENT / name): _digested(content) for name, content in files.items()}


def _entry_sections(paths: Paths, entries: Mapping[Path, Entry]) -> Ruleset:
    """Of files of the system the whole text; of ours only that they differ, since `summary` tells what a declaration
    changes."""
    found: Ruleset = {}
    for path, entry in entries.items():
        if isinstance(entry, str):
            found[_key(path)] = Section((f"link to {entry}",), ())
        elif paths.system in path.parents and path.parent not in (paths.etc, paths.run):
            found[_key(path)] = Section((f"mode {entry[1]:04o}",), _lines(entry[0]))
        else:
            found[_key(path)] = _digested(entry)
    return found


def _lines(text: str) -> tuple[str, ...]:
    """Every byte counts."""
    *lines, rest = text.split("\n")
    return (*lines, rest, "(no newline at the end)") if rest else tuple(lines)


def _digested(content: Content) -> Section:
    text, mode = content
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return Section((f"mode {mode:04o}",), (f"sha256 {digest}",))


def _key(path: Path) -> Key:
    return Key("", "", "file", str(path))
