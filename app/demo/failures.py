"""What ends a demo before its time."""


class DemoFailed(Exception):
    """The service or a node failed; the message says so in words, with the failing process's own."""
