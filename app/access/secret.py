"""The text of a token: made here, taken apart here, and kept nowhere but as a digest.

`mpl_<token id>~<secret>`, or `mpl_<cluster id>~<token id>~<secret>` for one of a single cluster, which so
says where it is kept; no id has a `~`, and all of it may stand in a header (RFC 6750). The secret is 256
random bits, so a plain SHA-256 is as good as a slow hash: those are for passwords, which can be guessed, and
would cost every request milliseconds that bring nothing here.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from app.schema import ID_PATTERN
from app.storage.keys import EVERYWHERE

PREFIX = "mpl_"
"""By which scanners for leaked secrets, and people, know one."""

SECRET_BYTES = 32
ID_BYTES = 8
TOKEN_ID_PATTERN = rf"^[0-9a-f]{{{2 * ID_BYTES}}}$"
LONGEST = 256
"""Characters of a token, with room: longer ones are not looked at."""

_TEXT = re.compile(
    rf"{PREFIX}(?:(?P<cluster>{ID_PATTERN[1:-1]})~)?(?P<token>{TOKEN_ID_PATTERN[1:-1]})~(?P<secret>[A-Za-z0-9_-]{{43}})"
)


@dataclass(frozen=True, slots=True)
class TokenName:
    """What of a token is no secret: where it is kept (`EVERYWHERE` or a cluster's id), and its id there."""

    scope: str
    token_id: str


def make_token(scope: str) -> tuple[TokenName, str]:
    """A new token and its text, which is shown once."""
    name = TokenName(scope, secrets.token_hex(ID_BYTES))
    place = "" if scope == EVERYWHERE else f"{scope}~"
    return name, f"{PREFIX}{place}{name.token_id}~{secrets.token_urlsafe(SECRET_BYTES)}"


def name_of(text: str) -> TokenName | None:
    """None for what is no token of ours."""
    found = _TEXT.fullmatch(text) if len(text) <= LONGEST else None
    return None if found is None else TokenName(found["cluster"] or EVERYWHERE, found["token"])


def digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def same_digest(one: bytes, other: bytes) -> bool:
    """In a time that tells nothing of where they differ."""
    return hmac.compare_digest(one, other)
