"""Does telemetry arrive and get folded, and do solvers keep up?"""

from deploy.grafana.drawing import (
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    Page,
    Query,
    of_cluster,
    over_nodes,
    quantiles,
    rate,
)

_TELEMETRY = '{route=~".*/telemetry"}'


def page() -> Page:
    page = Page("ingest_and_solver", "Ingest and solver", "From windows to statistics to placements.")
    page.row("Ingest")
    page.graph(
        "Windows received",
        "By outcome; a duplicate was sent again and counts once.",
        PER_SECOND,
        Query(rate("moeplace_telemetry_windows_total", "outcome"), "{{outcome}}"),
    )
    page.graph(
        "Bytes received",
        "Of telemetry bodies, as sent.",
        BYTES_PER_SECOND,
        Query(rate("moeplace_telemetry_received_bytes_total"), "received"),
    )
    page.graph(
        "Duration of telemetry requests",
        "At the API.",
        SECONDS,
        *quantiles("moeplace_http_request_duration_seconds", selector=_TELEMETRY),
    )
    page.graph(
        "Windows folded",
        "Folded into statistics, or left out because their node or model was deleted.",
        PER_SECOND,
        Query(rate("moeplace_telemetry_folded_windows_total"), "folded"),
        Query(rate("moeplace_telemetry_discarded_windows_total"), "left out"),
    )
    page.graph(
        "Tokens and expert calls",
        "Of the windows folded.",
        PER_SECOND,
        Query(rate("moeplace_telemetry_tokens_total"), "tokens"),
        Query(rate("moeplace_telemetry_activations_total"), "expert calls"),
    )
    page.graph(
        "Fold lag",
        "Age of the oldest window that waits.",
        SECONDS,
        Query(of_cluster("moeplace_telemetry_fold_lag_seconds"), "{{cluster}}"),
        limit=30.0,
    )
    page.graph(
        "Waiting to be folded",
        "Bytes; beyond MOEPLACE_MAX_UNFOLDED_BYTES telemetry is refused.",
        BYTES,
        Query(of_cluster("moeplace_telemetry_stream_bytes"), "{{cluster}}"),
    )
    page.graph(
        "Age of telemetry",
        "Since the end of the newest window of the cluster.",
        SECONDS,
        Query('cluster:moeplace_telemetry_age_seconds:min{cluster=~"$cluster"}', "{{cluster}}"),
    )
    page.graph(
        "Age of telemetry over nodes",
        "Since the end of a node's newest window. An idle node posts none.",
        SECONDS,
        over_nodes("moeplace_node_telemetry_age_seconds"),
    )

    page.row("Solver")
    page.graph(
        "Solver runs",
        "By algorithm and status.",
        PER_SECOND,
        Query(rate("moeplace_solver_runs_total", "algorithm", "status"), "{{algorithm}} {{status}}"),
        Query(rate("moeplace_solver_failures_total", "how"), "{{how}}"),
    )
    page.graph(
        "Duration of solver runs",
        "By algorithm.",
        SECONDS,
        *quantiles("moeplace_solver_duration_seconds", "algorithm"),
    )
    page.graph(
        "What became of them",
        "Adopted, or the placement in force was kept.",
        PER_SECOND,
        Query(rate("moeplace_solver_decisions_total", "decision"), "{{decision}}"),
    )
    page.graph(
        "Gap",
        "Of the placement in force.",
        RATIO,
        Query(of_cluster("moeplace_placement_gap_ratio"), "{{cluster}}"),
        limit=0.1,
    )

    page.row("Worker")
    page.graph(
        "Duration of a tick",
        "A worker's round over one cluster.",
        SECONDS,
        *quantiles("moeplace_worker_tick_duration_seconds"),
    )
    page.graph(
        "Time since the last tick",
        "Of each cluster.",
        SECONDS,
        Query(f"time() - {of_cluster('moeplace_worker_tick_timestamp_seconds')}", "{{cluster}}"),
        limit=60.0,
    )
    page.graph(
        "Ticks abandoned",
        "Redis did not answer, or other processes kept changing the same keys.",
        PER_SECOND,
        Query(rate("moeplace_worker_abandoned_ticks_total"), "abandoned"),
    )
    page.graph(
        "Leases",
        "In the last hour: acquired, lost, released; and taken over from another worker.",
        COUNT,
        Query("sum by (event) (increase(moeplace_lease_changes_total[1h]))", "{{event}}"),
        Query("sum(increase(moeplace_lease_takeovers_total[1h]))", "taken over"),
    )
    page.graph(
        "Clusters",
        "Existing clusters, and those whose lease a worker holds.",
        COUNT,
        Query("max(moeplace_clusters)", "exist"),
        Query("sum(moeplace_worker_clusters)", "attended"),
    )
    return page
