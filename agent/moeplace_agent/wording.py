"""Words that depend on a number."""

from collections.abc import Sequence


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """ "1 node", "2 nodes". plural: where it is not `singular` with an s."""
    return f"{count} {agreeing(count, singular, plural or f'{singular}s')}"


def abridged(statements: Sequence[str], left_out: int, noun: str = "") -> str:
    """ "a; b", and with some left out "a; b; and 3 more" or "a; b; and 3 nodes more"."""
    if left_out <= 0:
        return "; ".join(statements)
    return "; ".join([*statements, f"and {counted(left_out, noun) if noun else left_out} more"])


def agreeing(count: int, singular: str, plural: str) -> str:
    """The word that goes with the number: "is" or "are", "keeps" or "keep"."""
    return singular if count == 1 else plural
