"""What a node holds, as members of a set and as the digest both sides compare."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from app.errors import FieldError, InvalidRequest
from app.nodes.schemas import HeldExperts

MAX_MEMBERS = 2**18
"""Of a node, and of one heartbeat."""
REMEMBERED = 4096


def members_of(held: Sequence[HeldExperts], pointer: str) -> list[str]:
    """ "model_id/layer/expert" of each, once; `InvalidRequest` where there are more than `MAX_MEMBERS`."""
    members = list(
        dict.fromkeys(
            f"{entry.model_id}/{entry.layer}/{expert}" for entry in held for expert in entry.experts
        )
    )
    if len(members) > MAX_MEMBERS:
        detail = f"{len(members)} experts, expected at most {MAX_MEMBERS}"
        raise InvalidRequest(f"{pointer}: {detail}", errors=[FieldError(pointer, detail, "TOO_MANY_EXPERTS")])
    return members


def holdings_digest(members: Iterable[bytes]) -> str:
    """SHA-256 over the sorted members, joined by newlines."""
    return hashlib.sha256(b"\n".join(sorted(members))).hexdigest()


class DigestMemory:
    """Digests of holdings by their version, so that a heartbeat without news need not read them."""

    def __init__(self) -> None:
        self._digests: OrderedDict[tuple[str, str, int], str] = OrderedDict()

    def get(self, cluster_uid: str, node_uid: str, version: int) -> str | None:
        return self._digests.get((cluster_uid, node_uid, version))

    def put(self, cluster_uid: str, node_uid: str, version: int, digest: str) -> None:
        self._digests[cluster_uid, node_uid, version] = digest
        while len(self._digests) > REMEMBERED:
            self._digests.popitem(last=False)
