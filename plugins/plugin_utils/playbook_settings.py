# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks take beside the variables of roles, checked before any host is asked for anything. Pure.

Ansible itself ends in a traceback over some of these (a `serial` that is no number), and passes over others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigError, ConfigErrors
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model import values
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.entities import MAX_BACKENDS, MAX_WAIT_S
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.reading import NO_VALUE, Reading
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.probe.settings import (
    MAX_CONNECTIONS,
    parse_target,
)

from . import probe_options

#: Names that lead to the controller in any inventory.
_CONTROLLER = ("localhost", "127.0.0.1", "::1")
#: Of the playbook status.
FORMATS = ("table", "json")
_SERIAL_REMEDY = (
    'write a number of hosts such as 2, a percentage such as "30%", or a list of these such as [1, "10%", "100%"]'
)


def problems(given: Mapping[str, Any], hosts: Collection[str]) -> list[str]:
    """One message for each thing that is wrong with these variables; `hosts` are those of the inventory."""
    found: list[str] = []
    for name, read in _readers(hosts).items():
        if name not in given:
            continue
        if given[name] is None:
            found.append(f"{name}: {NO_VALUE} (leave it out, or write a value; a template may have come out empty)")
            continue
        try:
            read(given[name], name)
        except ConfigErrors as errors:
            found += map(str, errors.errors)
        except ConfigError as error:
            found.append(str(error))
    return found


def _readers(hosts: Collection[str]) -> dict[str, Callable[[Any, str], object]]:
    def known(value: Any, path: str) -> None:
        _known_host(value, path, hosts)

    return {
        "natlb_hosts": _pattern,
        "natlb_backend_hosts": _pattern,
        "natlb_serial": _serial,
        "natlb_max_fail_percentage": _percentage,
        "natlb_gather_facts": values.boolean,
        "natlb_service": _service,
        "natlb_backend": _backend,
        "natlb_reason": values.text,
        "natlb_only_reason": values.text,
        "natlb_report_file": _file,
        "natlb_min_active": _min_active,
        "natlb_wait": values.boolean,
        "natlb_wait_timeout": _wait_timeout,
        "natlb_close_connections": values.boolean,
        "natlb_fail_on_problems": values.boolean,
        "natlb_format": _format,
        "natlb_compare_tables": values.boolean,
        "natlb_verify_each": values.boolean,
        "natlb_verify_from": known,
        "natlb_verify_connections": _connections,
        "natlb_verify_address": _addresses,
        "natlb_verify_probes": lambda value, path: probe_options.check(value, path, known),
    }


def _pattern(value: Any, path: str) -> None:
    for at, item in values.one_or_more(value, path):
        if not values.text(item, at).strip():
            raise ConfigError(at, "is empty", "write a group, a host or a pattern of these")


def _service(value: Any, path: str) -> None:
    """A list is natlb_services, mistyped: the check of the declaration says so."""
    if not isinstance(value, (list, tuple)):
        values.name(value, path)


def _backend(value: Any, path: str) -> None:
    if isinstance(value, (list, tuple)):
        problem = f"{values.shown(value)} is not one backend"
        raise ConfigError(path, problem, "write one name or address, and run the playbook once for each backend")
    if not values.text(value, path).strip():
        raise ConfigError(path, "is empty", "write the name of a backend or its address")


def _format(value: Any, path: str) -> None:
    if values.text(value, path) not in FORMATS:
        raise ConfigError(path, f"{values.shown(value)} is not a format", f"write {' or '.join(FORMATS)}")


def _file(value: Any, path: str) -> None:
    text = values.text(value, path)
    if not text.strip() or text.endswith("/"):
        raise ConfigError(path, f"{values.shown(text)} is not a file", "write a path such as /tmp/natlb-report.html")


def _min_active(value: Any, path: str) -> None:
    values.integer(value, path, 0, MAX_BACKENDS, "a number of backends")


def _wait_timeout(value: Any, path: str) -> None:
    values.integer(value, path, 0, MAX_WAIT_S, "a number of seconds")


def _serial(value: Any, path: str) -> None:
    reading = Reading()
    items = values.one_or_more(value, path)
    reading.each(_turn, items)
    reading.done()
    if not items:
        raise ConfigError(path, "is empty", _SERIAL_REMEDY)


def _turn(value: Any, path: str) -> None:
    """How many hosts have their turn at a time. 0 would be all of them."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"0*([1-9][0-9]{0,8})(%?)", text) if isinstance(text, str) else None
    if match is None or (match[2] and int(match[1]) > 100):
        raise ConfigError(path, f"{values.shown(value)} is not a number of hosts above 0", _SERIAL_REMEDY)


def _percentage(value: Any, path: str) -> None:
    text = value[:-1] if isinstance(value, str) and value.endswith("%") else value
    try:
        number = -1.0 if isinstance(text, bool) else float(text)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 100:
        raise ConfigError(path, f"{values.shown(value)} is not a percentage", "0-100")


def _connections(value: Any, path: str) -> None:
    values.integer(value, path, 1, MAX_CONNECTIONS, "a number of connections")


def _addresses(value: Any, path: str) -> None:
    for at, item in values.one_or_more(value, path):
        _address(item, at)


def _address(value: Any, path: str) -> None:
    text = values.text(value, path)
    try:
        parse_target(f"[{text}]:1" if ":" in text else f"{text}:1")
    except ConfigError:
        problem = f"{values.shown(text)} is neither an address nor a host name"
        raise ConfigError(path, problem, "write one such as 192.0.2.2, 2001:db8::2 or lb1.example.org") from None


def _known_host(value: Any, path: str, hosts: Collection[str]) -> None:
    name = values.text(value, path)
    if name not in hosts and name not in _CONTROLLER:
        meant = probe_options.nearest(name, hosts)
        hint = f"did you mean {meant}?" if meant else "name a host of it, or localhost"
        raise ConfigError(path, f"no host {values.shown(name)} is in the inventory", hint)
