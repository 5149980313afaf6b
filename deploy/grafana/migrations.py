"""Are experts moving, at what cost, and as planned?"""

from grafana_foundation_sdk.models.common import StackingMode

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
    quantiles,
    rate,
)


def page() -> Page:
    page = Page("migrations", "Migrations", "The active plan, and the outcome of earlier plans.")
    page.row("Now")
    page.graph(
        "Moves of the plan",
        "Pending, released to nodes, succeeded, and failed (to be retried).",
        COUNT,
        Query(of_cluster("moeplace_migration_moves", "state"), "{{cluster}} {{state}}"),
        stacked=StackingMode.NORMAL,
    )
    page.graph(
        "Bytes of the plan",
        "Total to be copied, and copied.",
        BYTES,
        Query(of_cluster("moeplace_migration_bytes", "kind"), "{{cluster}} {{kind}}"),
    )
    page.graph(
        "Standing still",
        "Time without progress although moves are needed.",
        SECONDS,
        Query(of_cluster("moeplace_migration_stalled_seconds"), "{{cluster}}"),
        limit=120.0,
    )
    page.graph(
        "Nodes behind",
        "Live nodes that do not hold, or not route by, the placement in force.",
        COUNT,
        Query(of_cluster("moeplace_cluster_nodes_behind"), "{{cluster}}"),
    )
    page.graph(
        "Copies to come and to go",
        "Missing at live nodes, and in excess there.",
        COUNT,
        Query(of_cluster("moeplace_cluster_copies", "state", state="missing"), "{{cluster}} missing"),
        Query(of_cluster("moeplace_cluster_copies", "state", state="excess"), "{{cluster}} excess"),
    )
    page.states(
        "Converged",
        "All nodes hold and route as the placement in force says.",
        Query(of_cluster("moeplace_cluster_condition", condition="Converged"), "{{cluster}}"),
        span=8,
    )

    page.row("Moves")
    page.graph(
        "Moves that ended",
        "By kind and outcome.",
        PER_SECOND,
        Query(rate("moeplace_moves_total", "kind", "outcome"), "{{kind}} {{outcome}}"),
    )
    page.graph(
        "Bytes received",
        "By outcome of the copy.",
        BYTES_PER_SECOND,
        Query(rate("moeplace_moved_bytes_total", "outcome"), "{{outcome}}"),
    )
    page.graph(
        "Share of moves that fail",
        "Of those that ended in the last 15 minutes.",
        RATIO,
        Query("moeplace:moves_failed:ratio_rate15m", "failed"),
        limit=0.1,
    )

    page.row("Plans")
    page.graph(
        "Plans that ended",
        "In the last hour, by outcome.",
        COUNT,
        Query("sum by (outcome) (increase(moeplace_migration_plans_total[1h]))", "{{outcome}}"),
    )
    page.graph(
        "Duration of plans",
        "Planned and actual.",
        SECONDS,
        *quantiles("moeplace_migration_duration_seconds", "of"),
    )
    page.graph(
        "Actual over planned",
        "1: plans take as long as planned. Over the last hour.",
        COUNT,
        Query("moeplace:migration_actual_over_planned:ratio_rate1h", "actual / planned"),
    )
    page.graph(
        "Copies avoided",
        "Compared with EPLB, in total.",
        COUNT,
        Query("sum(moeplace_copies_avoided_total)", "avoided"),
        span=24,
    )
    return page
