"""The API's socket: opened first, refused in words, and not open to others by accident."""

import socket

import pytest

from moeplace_agent.serving.listening import ListeningError, is_loopback, open_listener, url_of


def test_free_port_is_found_and_named() -> None:
    """Port 0 gives a socket that listens where its URL says."""
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port)):
            pass


def test_taken_port_is_refused() -> None:
    """The port and the way out are named."""
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ListeningError, match=rf"^--port: {port} on 127\.0\.0\.1 is taken"):
            open_listener("127.0.0.1", port)


@pytest.mark.parametrize("host", ["nowhere.invalid", "300.1.1.1"])
def test_unknown_host_is_refused(host: str) -> None:
    """A host that is none is named."""
    with pytest.raises(ListeningError, match=r"^host: "):
        open_listener(host, 0)


def test_address_of_another_machine_is_refused() -> None:
    """An address this machine does not have cannot be listened on."""
    with pytest.raises(ListeningError, match=r"^cannot listen on 203\.0\.113\.7 port 0"):
        open_listener("203.0.113.7", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_known(host: str) -> None:
    """Only programs of this machine reach loopback."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", ""])
def test_other_addresses_are_not_loopback(host: str) -> None:
    """Addresses others reach, and names that may be anybody's, are not taken for it."""
    assert not is_loopback(host)
