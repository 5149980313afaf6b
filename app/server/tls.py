"""HTTPS by the service itself."""

import ssl

import structlog

from app.config import Settings
from moeplace_agent.serving.listening import ListeningError, is_loopback

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; 1.3 has only good ones. Older versions are refused."""


log = structlog.stdlib.get_logger(__name__)


def scheme_of(settings: Settings) -> str:
    return "http" if settings.tls_certificate is None else "https"


def warn_of_plain_http(settings: Settings) -> None:
    """Where tokens cross a network that others may listen to."""
    if settings.tls_certificate is None and not is_loopback(settings.host) and not settings.trusted_proxies:
        log.warning(
            "requests, and the tokens in them, are not encrypted: give --tls-certificate and --tls-key, or "
            "name the proxy that does it with --trusted-proxies",
            host=settings.host,
        )


def check_certificate(settings: Settings) -> None:
    """Raise `ListeningError` for a certificate and key that cannot be used, before anything starts."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    for name, path in (("tls_certificate", settings.tls_certificate), ("tls_key", settings.tls_key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ListeningError(f"{name}: {path} cannot be read: {error.strerror}") from None
    try:
        # A password is none, rather than asked for on a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_certificate, settings.tls_key, password=lambda: b""
        )
    except (ssl.SSLError, ValueError) as error:
        raise ListeningError(
            f"tls_certificate, tls_key: {settings.tls_certificate} and {settings.tls_key} are not a "
            f"certificate and its key without a password, in PEM: {getattr(error, 'reason', None) or error}"
        ) from None
