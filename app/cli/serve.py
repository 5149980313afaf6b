"""`moeplace serve`."""

import asyncio

from app.cli.settings import (
    AllowUnauthenticated,
    ApiWorkers,
    DataDir,
    Host,
    LogFormatOption,
    LogLevel,
    OperatorTokenFile,
    Port,
    RedisUrl,
    TlsCertificate,
    TlsKey,
    TrustedProxies,
    fail,
    settings_from,
)
from app.observability import logs
from app.storage.client import StorageError
from app.storage.embedded import EmbeddedServerError
from app.supervisor.serve import Supervisor, SupervisorError
from moeplace_agent.serving.listening import ListeningError


def serve_command(
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workers: ApiWorkers = None,
    allow_unauthenticated: AllowUnauthenticated = None,
    log_format: LogFormatOption = None,
    log_level: LogLevel = None,
    operator_token_file: OperatorTokenFile = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    trusted_proxies: TrustedProxies = None,
) -> None:
    """Run the whole service: API, worker and, unless --redis-url is given, an embedded Valkey server.

    Prints one line with its URL on standard output when it is ready, and restarts its processes if they die.
    SIGTERM or Ctrl-C ends it in order, within 10 seconds and without losing anything that it acknowledged; a
    second one ends it at once. SIGHUP replaces the API processes one after another without a failed request:
    for a new certificate, a new operator's token or a new version. On an address that other machines reach,
    it needs an operator's token.
    """
    settings = settings_from(
        host=host,
        port=port,
        redis_url=redis_url,
        data_dir=data_dir,
        api_workers=workers,
        allow_unauthenticated=allow_unauthenticated,
        log_format=log_format,
        log_level=log_level,
        operator_token_file=operator_token_file,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        trusted_proxies=trusted_proxies,
    )
    try:
        logs.configure(settings.log_format, settings.log_level, process="serve")
        status = asyncio.run(Supervisor(settings).run())
    except (
        ListeningError,
        StorageError,
        EmbeddedServerError,
        SupervisorError,
        logs.LogLevelError,
    ) as error:
        raise fail(error) from None
    if status:
        raise SystemExit(status)
