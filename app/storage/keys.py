"""Every key the service has in Redis, in one place.

All keys of a cluster carry its id as hash tag, so that a cluster lives in one slot of a Redis Cluster and
its transactions and scripts touch one slot only.
"""

from dataclasses import dataclass

CLUSTERS = "moeplace:clusters"
"""SET of cluster ids; with the next ones the only keys that belong to no cluster. Each has a slot of its own:
no transaction or script touches it together with another key."""

WORKERS = "moeplace:workers"
STARTING_WORKERS = "moeplace:workers:starting"
"""ZSET worker_id -> until when it counts as alive, milliseconds since the epoch (server's clock)."""

PROCESS_CLOCKS = f"{{{CLUSTERS}}}:process_clocks"
"""HASH name of a process -> by how many milliseconds its host's clock is ahead of the server's, a colon, and
until when that counts (milliseconds since the epoch, server's clock)."""

INDEX_DISK_MARK = f"{{{CLUSTERS}}}:disk_mark"
"""As `ClusterKeys.disk_mark`, for the server that has `CLUSTERS`: it hashes to the same slot."""


def writable(number: int) -> str:
    """STRING, written to learn whether its server takes writes; gone after seconds. Numbers spread over the
    servers of a cluster."""
    return f"moeplace:writable:{number}"


TOKENS_ISSUED = "moeplace:tokens_issued"
"""STRING, there since the first token was issued: from then on requests need one."""

EVERYWHERE = ":all"
"""In place of a cluster's id, which it cannot be: what belongs to all clusters and is kept as that of one is,
tokens and the record of what operators did."""

WAKE_PATTERN = "moeplace:*:wake"
"""Pattern of the channels on which changes are announced, one channel a cluster (`ClusterKeys.wake`)."""


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    cluster_id: str

    def _key(self, name: str) -> str:
        return f"moeplace:{{{self.cluster_id}}}:{name}"

    # --- specification, written by the API
    @property
    def cluster(self) -> str:
        """STRING, JSON `ClusterRecord`: uid, creation time, settings."""
        return self._key("cluster")

    @property
    def disk_mark(self) -> str:
        """Written to learn when all writes before it, to the server that has it, are on disk."""
        return self._key("disk_mark")

    @property
    def models(self) -> str:
        """HASH model_id -> JSON `ModelRecord`."""
        return self._key("models")

    @property
    def deleted_models(self) -> str:
        """ZSET model_id -> when it was deleted, seconds since the epoch (server's clock), bounded: nodes may
        still hold experts of it."""
        return self._key("deleted_models")

    @property
    def nodes(self) -> str:
        """HASH node_id -> JSON `NodeRecord`."""
        return self._key("nodes")

    @property
    def revision(self) -> str:
        """INTEGER raised by every change of cluster settings, models or nodes: workers compare it."""
        return self._key("revision")

    # --- what nodes report, written by the API
    @property
    def node_status(self) -> str:
        """HASH node_id -> JSON `NodeStatusRecord`, the last heartbeat without its experts."""
        return self._key("node_status")

    @property
    def node_leases(self) -> str:
        """ZSET node_id -> end of the node's lease, milliseconds since the epoch (server's clock)."""
        return self._key("node_leases")

    def holdings(self, node_id: str) -> str:
        """SET of "model_id/layer/expert": the experts the node is known to serve now."""
        return self._key(f"holdings:{node_id}")

    @property
    def holdings_versions(self) -> str:
        """HASH node_id -> INTEGER, the time of registration, raised by every change of its holdings."""
        return self._key("holdings_versions")

    def replaced_instances(self, node_id: str) -> str:
        """ZSET instance_uid -> when another instance of the node replaced it, milliseconds since the epoch
        (server's clock), bounded: it may still run, and may not take the node back while the other lives."""
        return self._key(f"replaced_instances:{node_id}")

    @property
    def registration_rates(self) -> str:
        """HASH node_id -> until when the node's registrations use up its allowance, milliseconds since the
        epoch (server's clock)."""
        return self._key("registration_rates")

    @property
    def drained_nodes(self) -> str:
        """ZSET node_id -> when it left, drained, seconds since the epoch, bounded: should it register again
        it is kept out until an operator lets it in."""
        return self._key("drained_nodes")

    @property
    def node_conflicts(self) -> str:
        """HASH node_id -> JSON `NodeConflict`, the last time that two agents wanted to be the node."""
        return self._key("node_conflicts")

    @property
    def node_clocks(self) -> str:
        """HASH node_id -> seconds that the node's clock was ahead of the server's when last heard of."""
        return self._key("node_clocks")

    # --- telemetry
    @property
    def telemetry(self) -> str:
        """STREAM of accepted windows not folded yet; field `w` holds one packed window."""
        return self._key("telemetry")

    @property
    def telemetry_bytes(self) -> str:
        """INTEGER: bytes of the windows in the stream."""
        return self._key("telemetry_bytes")

    def telemetry_seen(self, node_id: str) -> str:
        """ZSET of accepted sequence numbers of the node's current instance, bounded."""
        return self._key(f"telemetry_seen:{node_id}")

    @property
    def telemetry_instances(self) -> str:
        """HASH node_id -> instance_uid whose windows are accepted (written at registration)."""
        return self._key("telemetry_instances")

    def statistics(self, node_id: str, model_id: str) -> str:
        """HASH bucket start (seconds since the epoch) -> packed counts and routes of that time bucket."""
        return self._key(f"statistics:{node_id}:{model_id}")

    @property
    def statistics_index(self) -> str:
        """HASH "node_id/model_id" -> end of the newest folded window, seconds since the epoch."""
        return self._key("statistics_index")

    @property
    def folded(self) -> str:
        """HASH: `last_id` folded so far, `windows_total`, `tokens_total`, `activations_total`."""
        return self._key("folded")

    # --- who works on the cluster
    @property
    def lease(self) -> str:
        """STRING "fencing token:worker_id", with the lease's time to live."""
        return self._key("lease")

    @property
    def fence(self) -> str:
        """INTEGER: the last fencing token given out."""
        return self._key("fence")

    # --- placements
    @property
    def placement(self) -> str:
        """HASH: `generation` in force, its `digest` and the cluster's `uid`, which make its version."""
        return self._key("placement")

    def placement_generation(self, generation: int) -> str:
        """HASH, one encoded document (`EncodedDocument`), and its `summary`: a generation's placement."""
        return self._key(f"placement:{generation}")

    @property
    def placements(self) -> str:
        """ZSET of retained generations."""
        return self._key("placements")

    @property
    def control(self) -> str:
        """HASH: `paused` ("1" while automatic recomputation is paused)."""
        return self._key("control")

    # --- orders to nodes, written by the worker
    def assignment(self, node_id: str) -> str:
        """HASH, one encoded document: the node's experts and its routing table."""
        return self._key(f"assignment:{node_id}")

    def moves(self, node_id: str) -> str:
        """HASH, one encoded document: the node's released moves, in order."""
        return self._key(f"moves:{node_id}")

    # --- migration plans
    @property
    def plans(self) -> str:
        """ZSET plan_id -> creation time, retained plans."""
        return self._key("plans")

    def plan(self, plan_id: str) -> str:
        """STRING, JSON `PlanRecord`: the plan and its state, written by the worker."""
        return self._key(f"plan:{plan_id}")

    def plan_progress(self, plan_id: str) -> str:
        """HASH move_id -> JSON `MoveProgress`, the executor's view of each move, written by the worker."""
        return self._key(f"plan_progress:{plan_id}")

    def plan_reports(self, plan_id: str) -> str:
        """HASH move_id -> JSON `MoveReportRecord`, the last report of the node, written by the API."""
        return self._key(f"plan_reports:{plan_id}")

    @property
    def plan_durations(self) -> str:
        """LIST of JSON `PlanDuration`, newest first, bounded: what plans were to take, and took."""
        return self._key("plan_durations")

    @property
    def plan_active(self) -> str:
        """STRING: id of the plan being executed."""
        return self._key("plan_active")

    @property
    def plan_commands(self) -> str:
        """LIST of JSON `PlanCommand` (pause, resume, cancel) waiting for the worker."""
        return self._key("plan_commands")

    # --- work asked of the worker
    @property
    def jobs(self) -> str:
        """LIST of optimization ids waiting for the worker, bounded."""
        return self._key("jobs")

    @property
    def optimizations(self) -> str:
        """ZSET optimization_id -> creation time, retained ones."""
        return self._key("optimizations")

    def optimization(self, optimization_id: str) -> str:
        """STRING, JSON `OptimizationRecord`."""
        return self._key(f"optimization:{optimization_id}")

    # --- observation, written by the worker
    @property
    def analysis(self) -> str:
        """HASH, one encoded document: the newest analysis."""
        return self._key("analysis")

    @property
    def analysis_overview(self) -> str:
        """HASH, one encoded document: the newest analysis without what is of one layer at one node."""
        return self._key("analysis_overview")

    @property
    def analysis_layers(self) -> str:
        """HASH "model_id/layer" -> packed activations of the layer, expert by expert and node by node."""
        return self._key("analysis_layers")

    @property
    def placement_status(self) -> str:
        """HASH, one encoded document: conditions and progress per node."""
        return self._key("placement_status")

    # --- who may ask, and who did
    @property
    def tokens(self) -> str:
        """HASH token_id -> JSON `TokenRecord`: never the token, only its digest."""
        return self._key("tokens")

    @property
    def tokens_used(self) -> str:
        """HASH token_id -> when it was last seen, seconds since the epoch, to a few minutes."""
        return self._key("tokens_used")

    @property
    def audit(self) -> str:
        """STREAM of what operators did, bounded; field `e` holds a JSON `AuditEntry` without its id."""
        return self._key("audit")

    @property
    def wake(self) -> str:
        """Pub/sub channel; the message is a topic: one of `app.storage.topics`."""
        return self._key("wake")
