"""How workers share the clusters: each computes the same from who lives and how many clusters there are."""

import hashlib
from collections.abc import Collection, Iterable

SURRENDERED_PART = 0.25
"""Of the clusters a worker has too many, given up with each look: whoever takes them over reads them in."""


def share(worker_id: str, workers: Collection[str], clusters: int) -> int:
    """How many of the clusters the worker is to have: equal parts, what is left over to the first by id.

    The shares of all workers add up to `clusters`. A worker that is not (yet, or any more) among those that
    live counts itself among them.
    """
    everyone = sorted({*workers, worker_id})
    part, left_over = divmod(clusters, len(everyone))
    return part + (everyone.index(worker_id) < left_over)


def surrendered(held: int, fair: int) -> int:
    """How many to give up now of those held beyond the share: a part, so that no crowd moves at once."""
    excess = max(0, held - fair)
    return min(excess, max(1, round(SURRENDERED_PART * excess)))


def in_own_order(worker_id: str, cluster_ids: Iterable[str]) -> list[str]:
    """Each worker's is another one, so that not all try to take the same clusters first."""
    return sorted(
        cluster_ids,
        key=lambda cluster_id: hashlib.blake2b(f"{worker_id}/{cluster_id}".encode(), digest_size=8).digest(),
    )
