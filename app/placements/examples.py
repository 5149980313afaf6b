"""Examples in the contract."""

METADATA = {
    "uid": "8c4e6f0a1b2c3d4e",
    "generation": 7,
    "digest": "5f1d7a84db6a4e27",
    "created_at": "2026-01-01T12:00:00.000Z",
    "supersedes": 6,
}
EVIDENCE = {
    "algorithm": "certified",
    "objective": 1.83,
    "lower_bound": 1.79,
    "gap_ratio": 0.0219,
    "mean_latency_seconds": 0.0061,
    "objective_before": 2.4,
    "migration_bytes": 3145728,
    "runtime_seconds": 0.21,
    "telemetry_until": "2026-01-01T11:59:50.000Z",
    "reason": "INTERVAL",
    "solved_at": "2026-01-01T11:59:58.000Z",
    "copies": 32,
    "copies_avoided": 611,
    "copies_withheld": 0,
    "predicted_improvement_ratio": 0.24,
    "held_out_improvement_ratio": 0.21,
}
HOLDS = [
    {"node_id": "node-a", "holds": [{"model_id": "tiny-moe", "layer": 0, "experts": [0, 3, 17]}]},
    {"node_id": "node-b", "holds": [{"model_id": "tiny-moe", "layer": 0, "experts": [1, 2]}]},
]
PLACEMENT = {
    "metadata": METADATA,
    "spec": {"nodes": ["node-a", "node-b"], "models": ["tiny-moe"], "holds": HOLDS},
    "evidence": EVIDENCE,
}
ASSIGNMENT = {
    "metadata": {"uid": METADATA["uid"], "generation": 7, "digest": "90d3b1c7aa12ef55"},
    "node_id": "node-a",
    "devices": [
        {"device_id": "gpu0", "holds": [{"model_id": "tiny-moe", "layer": 0, "experts": [0, 3, 17]}]}
    ],
    "targets": [
        {
            "kind": "NODE",
            "node_id": "node-b",
            "base_url": "http://node-b.example:8000",
            "experts_url": "http://node-b.example:9000",
            "latency_seconds": 0.004,
        },
        {
            "kind": "ORIGIN",
            "node_id": None,
            "base_url": "https://experts.example",
            "experts_url": None,
            "latency_seconds": 0.08,
        },
    ],
    "routes": [{"model_id": "tiny-moe", "layer": 0, "experts": [1, 2, 4], "targets": [[0, 1], [0, 1], [1]]}],
    "evict": [],
}
