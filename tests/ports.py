"""Ports for servers that must be told theirs before they start."""

import random
import socket

BELOW_EPHEMERAL = range(20000, 32000)
"""No outgoing connection and nobody's port 0 takes one of these between the choice and the server's bind."""

_chosen: set[int] = set()


def free_port() -> int:
    """A port of loopback that nothing listens on, never the same twice in one process."""
    while True:
        port = random.SystemRandom().choice(BELOW_EPHEMERAL)  # xdist seeds all its processes alike
        if port in _chosen:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _chosen.add(port)
        return port
