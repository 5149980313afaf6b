"""From the Authorization header to who asks, without a call to Redis for a token seen lately.

What is remembered of a token is forgotten when its cluster's tokens change, which is announced to every
process, and whenever announcements may have been missed; and in any case after `TRUST_SECONDS`. A connection
that dies silently is noticed within ten seconds (`app.http.waiting`).
"""

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from redis.asyncio import Redis
from starlette.types import Scope

from app.access import store
from app.access.rates import Rates
from app.access.roles import Principal, Role
from app.access.secret import TokenName, digest_of, name_of, same_digest
from app.access.site import Site
from app.errors import Unauthenticated
from app.observability.metrics import AUTHENTICATION_FAILURES
from app.storage import topics
from app.storage.clock import server_seconds

TRUST_SECONDS = 60.0
REMEMBERED = 20_000
USE_NOTED_SECONDS = 300
"""How exactly it is known when a token was last used: a write for each in this time, not for each request."""

OPERATOR_SETTING = "operator-setting"
"""The id, in the record of what operators did, of the token given by setting."""


@dataclass(frozen=True, slots=True)
class _Known:
    name: TokenName
    digest: bytes
    principal: Principal
    expires_at: float
    """Infinite: never."""


class Authentication:
    """`required`: True, False, or None: as soon as any token was ever issued.

    `operator_digest`: of the token that is an operator's by setting.
    """

    def __init__(
        self,
        redis: Redis,
        rates: Rates,
        site: Site,
        *,
        required: bool | None,
        operator_digest: bytes | None,
    ) -> None:
        self.site = site
        self._redis = redis
        self._rates = rates
        self._setting = required
        self._required = required
        self._operator = operator_digest
        # By the digest of the whole header, so that the way of most requests is short: neither the time a
        # look-up takes nor what lies in memory tells anything of a secret.
        self._known: OrderedDict[bytes, tuple[_Known, float]] = OrderedDict()
        self._changes = 0

    @property
    def on(self) -> bool:
        """Whether it is known that a token is asked for."""
        return self._required is True

    async def required(self) -> bool:
        """Whether a token is asked for."""
        if self._required is None:
            self._required = await store.tokens_issued(self._redis)
        return self._required

    def notified(self, cluster_id: str | None, topic: str | None) -> None:
        """An announcement; None: some may have been missed."""
        if topic not in (None, topics.TOKENS):
            return
        if self._setting is None and self._required is False:
            self._required = None
        self._changes += 1
        for header, (known, _) in list(self._known.items()):
            if cluster_id is None or known.name.scope == cluster_id:
                del self._known[header]

    async def who(self, scope: Scope) -> Principal:
        """Whose token the request has; `Unauthenticated` or `RateLimited` otherwise."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        header = sha256(given[0]).digest() if len(given) == 1 else b""
        known, trusted_until = self._known.get(header, _NOTHING)
        if known is None or trusted_until < time.monotonic():
            text = _bearer(given)
            digest = digest_of(text)
            if self._operator is not None and same_digest(digest, self._operator):
                self._rates.asked(OPERATOR_SETTING)
                return _OPERATOR
            known = await self._judge(text, digest, header, scope)
        if known.expires_at <= server_seconds():
            raise self._refusal(scope, "expired", "the token has expired")
        self._rates.asked(known.principal.token_id)
        return known.principal

    async def _judge(self, text: str, digest: bytes, header: bytes, scope: Scope) -> _Known:
        """Ask Redis, and remember what it says. Wrong tokens alone are limited, once they are known to be
        wrong: somebody who guesses behind a proxy or a NAT locks nobody there out."""
        name, changes = name_of(text), self._changes
        known = None if name is None else await self._read(name)
        if known is None or not same_digest(known.digest, digest):
            raise self._refusal(scope, "unknown", "the token is not known here, or was revoked")
        if changes == self._changes:
            self._known[header] = known, time.monotonic() + TRUST_SECONDS
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known

    async def _read(self, name: TokenName) -> _Known | None:
        record, used = await store.read(self._redis, name.scope, name.token_id)
        if record is None:
            return None
        now = server_seconds()
        if now - used > USE_NOTED_SECONDS and not store.expired(record):
            await store.note_use(self._redis, name.scope, name.token_id, int(now))
        return _Known(
            name=name,
            digest=bytes.fromhex(record.digest),
            principal=Principal(record.token_id, record.role, record.cluster_id, record.node_id),
            expires_at=math.inf if record.expires_at is None else record.expires_at.timestamp(),
        )

    def _refusal(self, scope: Scope, reason: str, words: str) -> Unauthenticated:
        """Raises `RateLimited` instead where too many wrong ones came from the address."""
        self._rates.wrong(_address(scope))
        AUTHENTICATION_FAILURES.labels(reason).inc()
        return Unauthenticated(words, reason="invalid_token")


_NOTHING: tuple[None, float] = (None, 0.0)
_OPERATOR = Principal(OPERATOR_SETTING, Role.OPERATOR)


def _bearer(given: Sequence[bytes]) -> str:
    """The token sent in the headers; `Unauthenticated` where there is none."""
    if not given:
        AUTHENTICATION_FAILURES.labels("missing").inc()
        raise Unauthenticated("header:Authorization: expected Bearer and a token")
    kind, _, text = given[0].decode("latin-1").partition(" ")
    if len(given) > 1 or kind.lower() != "bearer":
        AUTHENTICATION_FAILURES.labels("malformed").inc()
        raise Unauthenticated("header:Authorization: expected it once, Bearer and a token")
    return text.strip()


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "unknown"
