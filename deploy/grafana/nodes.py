"""How are the nodes, as the service sees them and as their agents do?"""

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
    over_nodes,
    quantiles,
    rate,
)


def page() -> Page:
    page = Page("nodes", "Nodes", "As the service sees them, and each agent by its own metrics.")
    page.row("As the service sees them")
    page.graph(
        "Nodes",
        "Registered nodes by condition.",
        COUNT,
        Query(of_cluster("moeplace_cluster_nodes", "condition"), "{{cluster}} {{condition}}"),
        stacked=StackingMode.NORMAL,
    )
    page.graph(
        "Trouble",
        "Nodes that flap, that cannot apply their assignment, that are behind, whose counts cannot be right.",
        COUNT,
        Query(of_cluster("moeplace_cluster_nodes_flapping"), "{{cluster}} flapping"),
        Query(of_cluster("moeplace_cluster_nodes_failed"), "{{cluster}} failed"),
        Query(of_cluster("moeplace_cluster_nodes_behind"), "{{cluster}} behind"),
        Query(of_cluster("moeplace_cluster_nodes_implausible"), "{{cluster}} implausible"),
    )
    page.graph(
        "Coming and going",
        "In the last hour: nodes that became live, and nodes that were lost.",
        COUNT,
        Query("sum by (to) (increase(moeplace_node_transitions_total[1h]))", "{{to}}"),
    )
    page.graph(
        "Free memory",
        "Free share of a node's memory for experts.",
        RATIO,
        over_nodes("moeplace_node_free_memory_ratio"),
    )
    page.graph(
        "Room after the loss of the largest node",
        "Memory beyond the required copies; below 0 no placement would exist.",
        BYTES,
        Query('cluster:moeplace_memory_headroom_after_loss:bytes{cluster=~"$cluster"}', "{{cluster}}"),
        signed=True,
    )
    page.graph(
        "Room now",
        "Share of the memory that the copies which must be there leave.",
        RATIO,
        Query('cluster:moeplace_memory_headroom:ratio{cluster=~"$cluster"}', "{{cluster}}"),
        signed=True,
    )
    page.graph(
        "Calls served",
        "Calls per second that a node serves, for itself and others.",
        PER_SECOND,
        over_nodes("moeplace_node_served_calls_per_second"),
    )
    page.graph(
        "Local hits",
        "Share of a node's calls that it serves itself.",
        RATIO,
        over_nodes("moeplace_node_local_hit_ratio"),
    )
    page.graph(
        "Latency",
        "Expected expert latency of a token at a node.",
        SECONDS,
        over_nodes("moeplace_node_mean_latency_seconds"),
    )

    page.graph(
        "Registrations",
        "By outcome; many refused ones mean that two agents have one node_id.",
        PER_SECOND,
        Query(rate("moeplace_node_registrations_total", "outcome"), "{{outcome}}"),
    )
    page.graph(
        "Clocks of nodes",
        "How far they are ahead of the clock of Redis; negative: behind.",
        SECONDS,
        over_nodes("moeplace_node_clock_ahead_seconds"),
        signed=True,
    )
    page.graph(
        "Clocks of the service",
        "How far each host is ahead of the clock of Redis, and by how much a process may be wrong about it.",
        SECONDS,
        Query("moeplace_clock_ahead_seconds", "{{instance}} ahead"),
        Query("moeplace_clock_error_seconds", "{{instance}} may be wrong by"),
        signed=True,
    )

    page.row("Agents")
    page.graph("Experts held", "By agent.", COUNT, Query("moeplace_agent_held_experts", "{{instance}}"))
    page.graph(
        "Memory used",
        "Share of the memory for experts that held and arriving ones use.",
        RATIO,
        Query("moeplace_agent_used_bytes / moeplace_agent_capacity_bytes", "{{instance}}"),
    )
    page.graph(
        "Generation seen",
        "By agent; the service's own beside it.",
        COUNT,
        Query("moeplace_agent_generation", "{{instance}}"),
        Query('cluster:moeplace_placement_generation:max{cluster=~"$cluster"}', "{{cluster}}"),
    )
    page.graph(
        "Bytes fetched",
        "From the origin, and from peers.",
        BYTES_PER_SECOND,
        Query(rate("moeplace_agent_fetched_bytes_total", "source"), "{{source}}"),
    )
    page.graph(
        "Bytes sent",
        "To peers; by the origin to all.",
        BYTES_PER_SECOND,
        Query(rate("moeplace_agent_sent_bytes_total", "job"), "{{job}}"),
    )
    page.graph(
        "Duration of copies",
        "Fetched, verified and loaded.",
        SECONDS,
        *quantiles("moeplace_agent_fetch_duration_seconds"),
    )
    page.graph(
        "Moves",
        "Carried out by agents.",
        PER_SECOND,
        Query(rate("moeplace_agent_moves_total", "kind", "outcome"), "{{kind}} {{outcome}}"),
    )
    page.graph(
        "Sends",
        "In progress, and refused because of the limit.",
        COUNT,
        Query("sum(moeplace_agent_sends_in_progress)", "under way"),
        Query("sum(increase(moeplace_agent_sends_refused_total[$__rate_interval]))", "refused"),
    )
    page.graph(
        "Windows waiting",
        "Waiting, and dropped.",
        COUNT,
        Query("moeplace_agent_windows_waiting", "{{instance}}"),
        Query("sum(increase(moeplace_agent_windows_dropped_total[$__rate_interval]))", "given up"),
    )
    page.graph(
        "Heartbeats",
        "Answered, by agent.",
        PER_SECOND,
        Query(rate("moeplace_agent_heartbeats_total", "instance"), "{{instance}}"),
        span=12,
    )
    page.graph(
        "Assignments that fail",
        "1 while an agent cannot apply the newest.",
        COUNT,
        Query("moeplace_agent_assignment_failed", "{{instance}}"),
        span=12,
    )
    return page
