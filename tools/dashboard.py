# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dashboard of the role `monitoring`. `tools/run python tools/dashboard.py` writes it anew."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

WRITTEN = Path(__file__).resolve().parents[1] / "roles" / "monitoring" / "files" / "natlb-dashboard.json"

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
#: What is chosen at the top of the dashboard.
HOST = '{instance=~"$instance"}'
SERVICE = '{instance=~"$instance", service=~"$service"}'

Panel = stat.Panel | table.Panel | timeseries.Panel


def query(expression: str, legend: str = "", name: str = "A") -> prometheus.Dataquery:
    """One that is drawn over time."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(name).datasource(SOURCE).range()


def now(expression: str, name: str = "A") -> prometheus.Dataquery:
    """One that is asked once, for a table or a single number."""
    asked = prometheus.Dataquery().expr(expression).ref_id(name).datasource(SOURCE).instant()
    return asked.format(PromQueryFormat.TABLE)


def thresholds(*steps: tuple[float | None, str]) -> builders.ThresholdsConfig:
    """Colours by value, from the lowest on."""
    found = [models.Threshold(value=value, color=color) for value, color in steps]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


# -- one number each -------------------------------------------------------------------------------------------------


def count(title: str, expression: str, color: str, description: str) -> stat.Panel:
    """How many there are: none is green."""
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).height(4).span(4)
    panel = panel.with_target(now(f"count({expression}) or vector(0)"))
    panel = panel.color_mode(common_models.BigValueColorMode.BACKGROUND)
    panel = panel.graph_mode(common_models.BigValueGraphMode.NONE)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.thresholds(thresholds((None, "green"), (1, color)))


def counts() -> list[stat.Panel]:
    """What needs attention."""
    empty = f"natlb_service_serving_backends{SERVICE} == 0 and on (job, instance, service) natlb_backend_state"
    stale = f"(time() - natlb_metrics_timestamp_seconds{HOST} > 120) or natlb_agent_up{HOST} == 0"
    return [
        count("Backends down", f"natlb_backend_up{SERVICE} == 0", "red", "As health checks find it, on each balancer."),
        count("Services without backends", empty, "red", "All that they declare are out. Clients are refused there."),
        count("Drifted", f"natlb_drift{HOST} == 1", "orange", "Balancers whose rules are not the declared ones."),
        count("Not forwarding", f"natlb_forwarding{HOST} == 0", "red", "Balancers whose kernel forwards no packets."),
        count("Agents silent", stale, "orange", "Agents that do not answer, or whose metrics stand still."),
        count("Failed changes", f"natlb_last_apply_success{HOST} == 0", "orange", "Balancers whose last run failed."),
    ]


# -- tables ----------------------------------------------------------------------------------------------------------


def listing(title: str, columns: dict[str, str], description: str, *queries: prometheus.Dataquery) -> table.Panel:
    """A table with these columns, by the names of their fields, in this order."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE).height(8).span(12)
    panel = panel.align(common_models.FieldTextAlignment.AUTO).inspect(False)
    for item in queries:
        panel = panel.with_target(item)
    merge = models.DataTransformerConfig(id_val="merge", options={})
    keep = models.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(columns)}})
    order = {"renameByName": columns, "indexByName": {name: place for place, name in enumerate(columns)}}
    named = models.DataTransformerConfig(id_val="organize", options=order)
    return panel.transformations([merge, keep, named])


def field(panel: table.Panel, name: str, **properties: object) -> table.Panel:
    """How a column looks."""
    return panel.override_by_name(name, [models.DynamicConfigValue(key, value) for key, value in properties.items()])


def words(good: int) -> list[object]:
    """A 1 or a 0 in words and colours."""
    found = {"0": ("no", good == 0), "1": ("yes", good == 1)}
    options = {key: {"text": text, "color": "green" if fine else "red"} for key, (text, fine) in found.items()}
    return [{"type": "value", "options": options}]


def balancers() -> table.Panel:
    """One row for each."""
    columns = {
        "drift": f"max by (instance) (natlb_drift{HOST})",
        "forwards": f"min by (instance) (natlb_forwarding{HOST})",
        "agent": f"min by (instance) (natlb_agent_up{HOST})",
        "table": f"max by (instance) (natlb_conntrack_entries{HOST} / natlb_conntrack_entries_limit{HOST})",
        "applied": f"max by (instance) (time() - natlb_last_apply_timestamp_seconds{HOST})",
        "took": f"max by (instance) (natlb_last_apply_duration_seconds{HOST})",
        "succeeded": f"min by (instance) (natlb_last_apply_success{HOST})",
        "metrics": f"max by (instance) (time() - natlb_metrics_timestamp_seconds{HOST})",
    }
    titles = {
        "drift": "Drift",
        "forwards": "Forwards",
        "agent": "Agent",
        "table": "Connections tracked",
        "applied": "Last run",
        "took": "It took",
        "succeeded": "Succeeded",
        "metrics": "Metrics",
    }
    fields = {"instance": "Balancer"} | {f"Value #{name}": titles[name] for name in columns}
    description = "Last run and metrics: how long ago."
    queries = [now(expression, name) for name, expression in columns.items()]
    panel = listing("Balancers", fields, description, *queries)
    for name, good in (("Drift", 0), ("Forwards", 1), ("Agent", 1), ("Succeeded", 1)):
        panel = field(panel, name, mappings=words(good), **{"custom.cellOptions": {"type": "color-text"}})
    for name in ("Last run", "It took", "Metrics"):
        panel = field(panel, name, unit="s", decimals=1)
    return field(panel, "Connections tracked", unit="percentunit", decimals=0)


def out_of_rotation() -> table.Panel:
    """Backends that get nothing, with the reason."""
    columns = {
        "service": "Service",
        "backend": "Backend",
        "address": "Address",
        "state": "State",
        "instance": "On",
        "Value #down": "Down",
    }
    own = "instance, service, backend, address"
    description = "Drained and disabled ones, and those that health checks find down."
    queries = [
        now(f'max by ({own}, state) (natlb_backend_state{SERVICE[:-1]}, state!="active"}})', "out"),
        now(f"max by ({own}) (natlb_backend_up{SERVICE} == bool 0) == 1", "down"),
    ]
    panel = listing("Backends out of the rotation", columns, description, *queries)
    return field(panel, "Down", mappings=words(0), **{"custom.cellOptions": {"type": "color-text"}})


# -- over time -------------------------------------------------------------------------------------------------------


def graph(title: str, unit: str, description: str, *queries: prometheus.Dataquery) -> timeseries.Panel:
    """Lines, with a table of the last values below."""
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.TABLE)
    legend = legend.placement(common_models.LegendPlacement.BOTTOM).show_legend(True).calcs(["lastNotNull", "max"])
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(9).span(12)
    panel = panel.min(0).fill_opacity(5).line_width(1).legend(legend)
    for item in queries:
        panel = panel.with_target(item)
    return panel


def with_family(expression: str) -> str:
    """Shares are of the connections of a family, which the address tells."""
    first = f'label_replace({expression}, "family", "ip", "", "")'
    return f'label_replace({first}, "family", "ip6", "address", ".*:.*:.*")'


def connections() -> timeseries.Panel:
    """New connections against what each backend is to get."""
    rate = with_family(f"rate(natlb_backend_connections_total{SERVICE}[$__rate_interval])")
    share = with_family(f"natlb_backend_expected_share_ratio{SERVICE}")
    of_service = f"sum by (job, instance, service, family) ({rate})"
    expected = f"{share} * on (job, instance, service, family) group_left () {of_service}"
    panel = graph(
        "New connections per second, and expected ones (dashed)",
        "cps",
        "Expected by shares. With affinity and source_hash that holds for many clients only.",
        query(f"sum by (service, backend) ({rate})", "{{service}} {{backend}}", "got"),
        query(f"sum by (service, backend) ({expected})", "{{service}} {{backend}} expected", "expected"),
    )
    dashed = models.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [6, 6]})
    return panel.override_by_query("expected", [dashed])


def deviation() -> timeseries.Panel:
    """Share of connections, less the expected share."""
    increase = with_family(f"increase(natlb_backend_connections_total{SERVICE}[10m])")
    share = with_family(f"natlb_backend_expected_share_ratio{SERVICE}")
    of_service = f"sum by (job, instance, service, family) ({increase})"
    got = f"{increase} / on (job, instance, service, family) group_left () ({of_service} > 0)"
    return graph(
        "Share of ten minutes, less the expected share",
        "percentunit",
        "The alert NatlbShareFarFromExpected tells chance from a fault.",
        query(f"{got} - {share}", "{{service}} {{backend}} on {{instance}}"),
    ).min(-1)


def graphs() -> dict[str, list[timeseries.Panel]]:
    """What is drawn over time, by row."""
    drops = {
        "dropped": f"rate(natlb_conntrack_dropped_total{HOST}[$__rate_interval])",
        "removed early": f"rate(natlb_conntrack_early_dropped_total{HOST}[$__rate_interval])",
        "clashes": f"rate(natlb_conntrack_clashes_total{HOST}[$__rate_interval])",
    }
    full = graph(
        "Connection tracking table",
        "percentunit",
        "At 100 % new connections are lost.",
        query(f"natlb_conntrack_entries{HOST} / natlb_conntrack_entries_limit{HOST}", "{{instance}}"),
    )
    return {
        "Backends": [
            connections(),
            graph(
                "Active connections",
                "short",
                "Of all chosen balancers.",
                query(
                    f"sum by (service, backend) (natlb_backend_active_connections{SERVICE})", "{{service}} {{backend}}"
                ),
            ),
            deviation(),
            graph(
                "Backends that serve",
                "short",
                "On the balancer that has the fewest.",
                query(f"min by (service, family) (natlb_service_serving_backends{SERVICE})", "{{service}} {{family}}"),
            ),
        ],
        "Checks": [
            graph(
                "How long checks take",
                "s",
                "The slowest of the chosen balancers.",
                query(f"max by (check) (natlb_check_duration_seconds{HOST})", "{{check}}"),
            ),
            graph(
                "Checks that fail",
                "short",
                "The number of balancers on which the last one failed.",
                query(f"count by (check) (natlb_check_success{HOST} == 0)", "{{check}}"),
            ),
        ],
        "Connection tracking": [
            full.max(1).thresholds(thresholds((None, "green"), (0.8, "orange"), (1, "red"))),
            graph(
                "What connection tracking loses",
                "ops",
                "Clashes alone are harmless.",
                *(query(text, f"{{{{instance}}}} {name}", name.split()[0]) for name, text in drops.items()),
            ),
        ],
        "Agents": [
            graph(
                "Processor time of the agents",
                "percentunit",
                "Of one processor, with checks and collections of metrics.",
                query(f"rate(natlb_agent_cpu_seconds_total{HOST}[$__rate_interval])", "{{instance}}"),
            ),
            graph(
                "Rules that were put back",
                "short",
                "How often within an hour somebody had changed them.",
                query(f"increase(natlb_agent_restored_rules_total{HOST}[1h])", "{{instance}}"),
            ),
        ],
    }


# -- all of it -------------------------------------------------------------------------------------------------------


def choice(name: str, label: str, expression: str) -> builders.QueryVariable:
    """A variable of several values, all of them at first."""
    everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    variable = builders.QueryVariable(name).label(label).datasource(SOURCE).query(expression)
    variable = variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    return variable.multi(True).include_all(True).all_value(".*").current(everything)


def dashboard() -> models.Dashboard:
    """The fleet at a glance, and each service and balancer by choice."""
    board = builders.Dashboard("natlb").uid("natlb-netfilter").tags(["natlb"]).readonly().refresh("30s")
    board = board.description("Balancers of the Ansible collection natlb.netfilter.").time("now-1h", "now")
    board = board.tooltip(models.DashboardCursorSync.CROSSHAIR)
    board = board.with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    board = board.with_variable(choice("instance", "Balancer", "label_values(natlb_build_info, instance)"))
    services = 'label_values(natlb_service_info{instance=~"$instance"}, service)'
    board = board.with_variable(choice("service", "Service", services))
    rows: dict[str, list[Panel]] = {"What needs attention": [*counts(), balancers(), out_of_rotation()]}
    numbers = itertools.count(1)
    for title, panels in (rows | graphs()).items():
        board = board.with_row(builders.Row(title).id(next(numbers)))
        for panel in panels:
            board = board.with_panel(panel.id(next(numbers)))
    return board.build()


def text() -> str:
    """As it is written."""
    return json.dumps(dashboard(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    WRITTEN.write_text(text())
