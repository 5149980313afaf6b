"""Is it well, and how fast are tokens?"""

from grafana_foundation_sdk.models.common import StackingMode

from deploy.grafana.drawing import (
    BYTES,
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    Page,
    Query,
    of_cluster,
    quantiles,
    rate,
)

_NO_PROBES = '{route!~"/healthz|/readyz|/metrics"}'


def page() -> Page:
    page = Page("overview", "Overview", "The service and its clusters.")
    page.row("Service")
    page.number(
        "API processes up",
        "Targets of the job moeplace that answer.",
        COUNT,
        Query('sum(up{job="moeplace"})', "up"),
        good="some",
    )
    page.number("Workers", "Workers that live.", COUNT, Query("sum(moeplace_workers)", "live"), good="some")
    page.number(
        "Clusters attended",
        "Clusters whose lease a worker holds.",
        COUNT,
        Query("sum(moeplace_worker_clusters)", "attended"),
        good="some",
    )
    page.number(
        "Alerts firing",
        "Alerts of moeplace that fire now.",
        COUNT,
        Query('count(ALERTS{alertname=~"Moeplace.*",alertstate="firing"}) or vector(0)', "firing"),
        good="zero",
    )
    page.number(
        "Nodes lost",
        "Registered nodes whose lease has run out.",
        COUNT,
        Query(f"sum({of_cluster('moeplace_cluster_nodes', condition='lost')})", "lost"),
        good="zero",
    )
    page.number(
        "Errors, last hour",
        "Requests that failed for the service's own reasons.",
        RATIO,
        Query("moeplace:http_errors:ratio_rate1h", "5xx"),
    )
    page.states(
        "Conditions",
        "Conditions of each cluster, as in placement/status. Migrating is not a fault.",
        Query(of_cluster("moeplace_cluster_condition", "condition"), "{{cluster}} {{condition}}"),
        Query(of_cluster("moeplace_cluster_paused"), "{{cluster}} Paused"),
    )

    page.row("What tokens get")
    page.graph(
        "Expert latency of a token",
        "Expected on the traffic now, and as predicted when the placement was adopted.",
        SECONDS,
        Query(of_cluster("moeplace_placement_current_mean_latency_seconds"), "{{cluster}} now"),
        Query(of_cluster("moeplace_placement_mean_latency_seconds"), "{{cluster}} predicted"),
    )
    page.graph(
        "Who serves expert calls",
        "Share of calls served by the token's own node, a peer, the origin or nobody.",
        RATIO,
        Query(of_cluster("moeplace_placement_served_ratio", "by"), "{{cluster}} {{by}}"),
        stacked=StackingMode.NORMAL,
    )
    page.graph(
        "Tokens",
        "Tokens per second of all nodes.",
        PER_SECOND,
        Query(of_cluster("moeplace_cluster_tokens_per_second"), "{{cluster}}"),
    )

    page.row("Fleet")
    page.graph(
        "Nodes",
        "Registered nodes by condition.",
        COUNT,
        Query(of_cluster("moeplace_cluster_nodes", "condition"), "{{cluster}} {{condition}}"),
        stacked=StackingMode.NORMAL,
    )
    page.graph(
        "Memory for experts",
        "Capacity, used, and required for the required copies.",
        BYTES,
        Query(of_cluster("moeplace_cluster_memory_bytes", "kind"), "{{cluster}} {{kind}}"),
    )
    page.graph(
        "Generation",
        "Of the placement in force; it only rises.",
        COUNT,
        Query('cluster:moeplace_placement_generation:max{cluster=~"$cluster"}', "{{cluster}}"),
    )

    page.row("Requests")
    page.graph(
        "Requests",
        "By class of status, without probes.",
        PER_SECOND,
        Query(rate("moeplace_http_requests_total", "status", selector=_NO_PROBES), "{{status}}"),
    )
    page.graph(
        "Duration of requests",
        "Long polls are not counted.",
        SECONDS,
        *quantiles("moeplace_http_request_duration_seconds", selector=_NO_PROBES),
        limit=0.25,
    )
    page.graph(
        "Held and in flight",
        "Long polls being held, and requests being answered.",
        COUNT,
        Query("sum(moeplace_waiters)", "long polls"),
        Query("sum(moeplace_http_requests_in_flight)", "in flight"),
    )
    page.graph(
        "Refused for their token",
        "Requests without a valid token, by reason; and with a token that does not allow them, by role.",
        PER_SECOND,
        Query(rate("moeplace_authentication_failures_total", "reason"), "{{reason}}"),
        Query(rate("moeplace_authorization_failures_total", "role"), "{{role}}"),
        span=12,
    )
    page.graph(
        "Refused because of overload",
        "By cause; telemetry waits for Redis (commits) or for the worker (unfolded).",
        PER_SECOND,
        Query(rate("moeplace_refused_total", "reason"), "{{reason}}"),
        span=12,
    )
    page.graph(
        "Share of errors",
        "Over the windows of the error budget; 0.1 % is what the objective allows.",
        RATIO,
        *(Query(f"moeplace:http_errors:ratio_rate{window}", window) for window in ("5m", "1h", "6h", "3d")),
        span=12,
    )
    page.graph(
        "Share of slow requests",
        "Longer than 250 ms; 1 % is what the objective allows.",
        RATIO,
        *(Query(f"moeplace:http_slow:ratio_rate{window}", window) for window in ("5m", "1h", "6h", "3d")),
        span=12,
    )
    return page
