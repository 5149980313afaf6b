"""What ends a run of the whole fleet before its time."""


class RunFailed(Exception):
    """The service or a node failed; the message says so in words, with the failing process's own."""
