"""Names of what is doubted of a node's counts (`app.statistics.plausibility`)."""

from enum import StrEnum


class Fault(StrEnum):
    """What is doubted about a node's counts."""

    MORE_THAN_TOKENS = "MORE_THAN_TOKENS"
    FEWER_THAN_TOKENS = "FEWER_THAN_TOKENS"
    NO_TOKENS = "NO_TOKENS"
    ONLY_HELD = "ONLY_HELD"
    OUTWEIGHS_FLEET = "OUTWEIGHS_FLEET"
