"""Words that depend on a number."""


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """ "1 node", "2 nodes". plural: where it is not `singular` with an s."""
    return f"{count} {agreeing(count, singular, plural or f'{singular}s')}"


def agreeing(count: int, singular: str, plural: str) -> str:
    """The word that goes with the number: "is" or "are", "keeps" or "keep"."""
    return singular if count == 1 else plural
