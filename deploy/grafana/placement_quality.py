"""How good is the placement in force, and did it do what was predicted?"""

from grafana_foundation_sdk.models.common import StackingMode

from deploy.grafana.drawing import COUNT, RATIO, SECONDS, Page, Query, of_cluster, over_nodes


def page() -> Page:
    page = Page(
        "placement_quality", "Placement quality", "Quality of placements: predicted, current, and by node."
    )
    page.row("Predicted and achieved")
    page.graph(
        "Objective",
        "Seconds of expert latency per second: for what nodes hold, for what they should hold, and as "
        "predicted when the placement was adopted (migration included).",
        COUNT,
        Query(
            of_cluster("moeplace_placement_current_objective_ratio", "placement"), "{{cluster}} {{placement}}"
        ),
        Query(of_cluster("moeplace_placement_objective_ratio"), "{{cluster}} predicted"),
        span=12,
    )
    page.graph(
        "Improvement on the placement before",
        "Predicted on the traffic solved on, achieved on traffic from after "
        "convergence. Below 0 the change was a mistake.",
        RATIO,
        Query(of_cluster("moeplace_placement_predicted_improvement_ratio"), "{{cluster}} predicted"),
        Query(of_cluster("moeplace_placement_achieved_improvement_ratio"), "{{cluster}} achieved"),
        span=12,
        signed=True,
    )
    page.graph(
        "Gap",
        "Distance from the optimum, at most: proven for the traffic solved on, and for the true traffic with "
        "a confidence of 95 %.",
        RATIO,
        Query(of_cluster("moeplace_placement_gap_ratio"), "{{cluster}} proven"),
        Query(of_cluster("moeplace_placement_true_gap_upper_ratio"), "{{cluster}} true traffic"),
        limit=0.1,
    )
    page.graph(
        "Generation",
        "A step is a new placement.",
        COUNT,
        Query('cluster:moeplace_placement_generation:max{cluster=~"$cluster"}', "{{cluster}}"),
    )
    page.graph(
        "Age of the placement",
        "Since it came into force.",
        SECONDS,
        Query('cluster:moeplace_placement_age_seconds:min{cluster=~"$cluster"}', "{{cluster}}"),
    )

    page.row("Where calls go")
    page.graph(
        "Who serves expert calls",
        "Share of calls served by the token's own node, a peer, the origin or nobody.",
        RATIO,
        Query(of_cluster("moeplace_placement_served_ratio", "by"), "{{cluster}} {{by}}"),
        stacked=StackingMode.NORMAL,
    )
    page.graph(
        "Local hits over nodes",
        "Share of a node's calls that it serves itself.",
        RATIO,
        over_nodes("moeplace_node_local_hit_ratio"),
    )
    page.graph(
        "Latency over nodes",
        "Expected expert latency of a token at a node.",
        SECONDS,
        over_nodes("moeplace_node_mean_latency_seconds"),
    )
    page.graph(
        "Balancedness",
        "Mean over maximum of the calls that nodes serve, all layers together; 1 is even. Unequal "
        "nodes need not be even.",
        RATIO,
        Query(of_cluster("moeplace_placement_balancedness_ratio"), "{{cluster}}"),
        span=12,
    )
    page.graph(
        "Calls served over nodes",
        "Calls per second that a node serves, for itself and others.",
        "cps",
        over_nodes("moeplace_node_served_calls_per_second"),
        span=12,
    )

    page.row("Copies")
    page.graph(
        "Copies",
        "At live nodes: held, missing, in excess.",
        COUNT,
        Query(of_cluster("moeplace_cluster_copies", "state"), "{{cluster}} {{state}}"),
    )
    page.graph(
        "Experts",
        "Held by a live node, or by none.",
        COUNT,
        Query(of_cluster("moeplace_cluster_experts", "state"), "{{cluster}} {{state}}"),
    )
    page.graph(
        "Placements",
        "Placements that came into force in the last hour, by origin.",
        COUNT,
        Query("sum by (made_by) (increase(moeplace_placements_total[1h]))", "{{made_by}}"),
    )
    return page
