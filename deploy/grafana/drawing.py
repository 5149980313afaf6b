"""What all dashboards draw alike: where data come from, a panel in a line, statistics over nodes."""

from collections.abc import Iterable
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus as queries
from grafana_foundation_sdk.models.common import (
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)

TAG = "moeplace"
HEIGHT = 8
COLUMNS = 24

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

SECONDS, BYTES, RATIO, COUNT = "s", "bytes", "percentunit", "short"
PER_SECOND, BYTES_PER_SECOND = "cps", "Bps"


class Query(NamedTuple):
    """PromQL, and the name of each of its series (`{{label}}`)."""

    expr: str
    legend: str


def of_cluster(metric: str, *by: str, **labels: str) -> str:
    """A gauge of the chosen clusters; while a cluster changes hands two workers may show it for a moment."""
    chosen = ",".join(['cluster=~"$cluster"', *(f'{name}="{value}"' for name, value in labels.items())])
    return f"max by ({', '.join(('cluster', *by))}) ({metric}{{{chosen}}})"


def over_nodes(metric: str) -> Query:
    """min, p50, p90 and max over the nodes of each cluster."""
    return Query(of_cluster(metric, "statistic"), "{{cluster}} {{statistic}}")


def rate(metric: str, *by: str, selector: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{selector}[$__rate_interval]))"


def quantiles(histogram: str, *by: str, selector: str = "") -> list[Query]:
    """Median and 99th percentile of a histogram."""
    names = " ".join(f"{{{{{label}}}}}" for label in by)
    rates = rate(f"{histogram}_bucket", *by, "le", selector=selector)
    return [
        Query(f"histogram_quantile({share}, {rates})", f"{names} {name}".strip())
        for share, name in ((0.5, "p50"), (0.99, "p99"))
    ]


class Page:
    """A dashboard filled panel by panel, from left to right."""

    def __init__(self, name: str, title: str, description: str) -> None:
        self.name = name
        self._dashboard = (
            builders.Dashboard(f"moeplace / {title}")
            .uid(f"{TAG}-{name.replace('_', '-')}")
            .description(description)
            .tags([TAG])
            .editable()
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .time("now-3h", "now")
            .refresh("30s")
            .timezone("browser")
            .variables([_datasource(), _cluster()])
            .link(
                builders.DashboardLink("Other dashboards")
                .type(DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .as_dropdown(True)
                .include_vars(True)
                .keep_time(True)
            )
        )
        self._panels = 0

    def row(self, title: str) -> None:
        self._panels += 1
        self._dashboard.with_row(builders.Row(title).id(self._panels))

    def graph(
        self,
        title: str,
        words: str,
        unit: str,
        *asked: Query,
        span: int = 8,
        stacked: StackingMode = StackingMode.NONE,
        limit: float | None = None,
        signed: bool = False,
    ) -> None:
        """Lines over time; `limit`: drawn where an alert begins; `signed`: may fall below 0."""
        panel = (
            timeseries.Panel()
            .title(title)
            .description(words)
            .datasource(DATASOURCE)
            .unit(unit)
            .span(span)
            .height(HEIGHT)
            .line_width(1.0)
            .fill_opacity(25.0 if stacked is not StackingMode.NONE else 8.0)
            .show_points(VisibilityMode.NEVER)
            .stacking(common.StackingConfig().mode(stacked))
            .legend(_legend())
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        )
        if not signed:
            panel.min(0.0)
        if limit is not None:
            steps = [Threshold(color="green"), Threshold(value=limit, color="red")]
            panel.thresholds(builders.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
            panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE))
        for query in _targets(asked):
            panel.with_target(query)
        self._add(panel)

    def number(self, title: str, words: str, unit: str, *asked: Query, span: int = 4, good: str = "") -> None:
        """What it is now; `good`: "zero" turns red above 0, "some" turns red at 0."""
        panel = (
            stat.Panel()
            .title(title)
            .description(words)
            .datasource(DATASOURCE)
            .unit(unit)
            .span(span)
            .height(4)
        )
        first, then = {"zero": ("green", "red"), "some": ("red", "green"), "": ("text", "text")}[good]
        steps = [Threshold(color=first), Threshold(value=1e-9, color=then)]
        panel.thresholds(builders.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        for query in _targets(asked):
            panel.with_target(query)
        self._add(panel)

    def states(self, title: str, words: str, *asked: Query, span: int = COLUMNS) -> None:
        """What was true when: series of 0 and 1."""
        shown = {
            "0": ValueMappingResult(text="no", color="orange", index=0),
            "1": ValueMappingResult(text="yes", color="green", index=1),
        }
        panel = (
            statetimeline.Panel()
            .title(title)
            .description(words)
            .datasource(DATASOURCE)
            .span(span)
            .height(HEIGHT)
            .mappings([ValueMap(options=shown)])
            .fill_opacity(70)
            .line_width(0)
            .show_value(VisibilityMode.NEVER)
        )
        for query in _targets(asked):
            panel.with_target(query)
        self._add(panel)

    def build(self) -> object:
        return self._dashboard.build()

    def _add(self, panel: timeseries.Panel | stat.Panel | statetimeline.Panel) -> None:
        self._panels += 1
        self._dashboard.with_panel(panel.id(self._panels))


def _targets(asked: Iterable[Query]) -> list[queries.Dataquery]:
    return [
        queries.Dataquery()
        .datasource(DATASOURCE)
        .expr(query.expr)
        .legend_format(query.legend)
        .ref_id(chr(ord("A") + index))
        .range()
        for index, query in enumerate(asked)
    ]


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def _datasource() -> builders.DatasourceVariable:
    return builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _cluster() -> builders.QueryVariable:
    return (
        builders.QueryVariable("cluster")
        .label("Cluster")
        .datasource(DATASOURCE)
        .query("label_values(moeplace_cluster_paused, cluster)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )
