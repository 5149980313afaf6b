"""Whether requests need tokens, and what has to be there before the API may listen."""

from redis.asyncio import Redis

from app.access import store
from app.access.authentication import Authentication
from app.access.rates import Rates
from app.access.roles import Role
from app.access.secret import digest_of
from app.access.site import Site
from app.config import Settings
from app.storage.keys import EVERYWHERE
from moeplace_agent.serving.listening import ListeningError, is_loopback

SHORTEST_SECRET = 32
"""Characters of an operator's token by setting: too many to guess."""


def authentication(settings: Settings, redis: Redis) -> Authentication:
    """As the settings want it. Raises `ListeningError` for an operator's token that cannot be one."""
    secret = operator_secret(settings)
    return Authentication(
        redis,
        Rates(settings.token_requests_per_second, settings.failed_authentications_per_minute),
        Site(settings),
        required=_required(settings),
        operator_digest=None if secret is None else digest_of(secret),
    )


def operator_secret(settings: Settings) -> str | None:
    """The operator's token by setting. Raises `ListeningError` for one nobody can read, or anybody guess."""
    if settings.operator_token is not None:
        name, secret = "operator_token", settings.operator_token.get_secret_value()
    elif settings.operator_token_file is not None:
        name = "operator_token_file"
        try:
            secret = settings.operator_token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ListeningError(f"{name}: {settings.operator_token_file} cannot be read: {error}") from None
    else:
        return None
    secret = secret.strip()
    if len(secret) < SHORTEST_SECRET or not secret.isascii() or any(map(str.isspace, secret)):
        raise ListeningError(
            f"{name}: expected one secret of {SHORTEST_SECRET} or more letters and digits, no white space; "
            "`moeplace token make` prints one"
        )
    return secret


async def require_operator(settings: Settings, redis: Redis) -> None:
    """Raise `ListeningError` where others can reach the API and nobody could tell it anything, or anybody."""
    if _required(settings) is not True or operator_secret(settings) is not None:
        return
    ids = await store.token_ids(redis, EVERYWHERE)
    found = await store.read_page(redis, EVERYWHERE, ids)
    if any(record.role is Role.OPERATOR and not store.expired(record) for record, _ in found):
        return
    raise ListeningError(
        f"host: {settings.host} can be reached from other machines, and there is no operator's token: set "
        "MOEPLACE_OPERATOR_TOKEN_FILE (`moeplace token make` prints one), issue one with "
        "`moeplace token issue`, or say --allow-unauthenticated where the network is trusted"
    )


def _required(settings: Settings) -> bool | None:
    if settings.allow_unauthenticated:
        return False
    if not is_loopback(settings.host):
        return True
    if settings.operator_token is not None or settings.operator_token_file is not None:
        return True
    return None
