"""The socket that a server listens on, opened before anything else so that a taken port costs nothing."""

import errno
import ipaddress
import socket

BACKLOG = 2048


class ListeningError(Exception):
    """The server cannot listen there; the message is one line for an operator."""


def open_listener(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket; port 0 takes a free one. `option`: what the operator calls the port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ListeningError(f"host: {host!r} is not an address: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ListeningError(
                f"{option}: {port} on {host} is taken by another program; choose another, 0 for any free one"
            ) from None
        raise ListeningError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
