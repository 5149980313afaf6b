"""`moeplace api`."""

import asyncio
import os
import socket
from typing import Annotated

import typer

from app.access.mode import operator_secret, require_operator
from app.cli.settings import (
    AllowUnauthenticated,
    ApiWorkers,
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
from app.config import Settings
from app.observability import logs
from app.server.api_process import run_api
from app.server.tls import check_certificate, scheme_of, warn_of_plain_http
from app.storage.client import StorageError, connect
from app.storage.durable import require_durability
from app.supervisor.serve import Supervisor, SupervisorError
from moeplace_agent.serving.listening import ListeningError, open_listener, url_of


def api_command(
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    workers: ApiWorkers = None,
    allow_unauthenticated: AllowUnauthenticated = None,
    log_format: LogFormatOption = None,
    log_level: LogLevel = None,
    operator_token_file: OperatorTokenFile = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    trusted_proxies: TrustedProxies = None,
    listen_fd: Annotated[int | None, typer.Option("--listen-fd", hidden=True)] = None,
    ready_fd: Annotated[int | None, typer.Option("--ready-fd", hidden=True)] = None,
) -> None:
    """Run only API processes, on a Redis or Valkey shared with workers.

    They are ready once a worker is alive. SIGTERM drains them: they become unready, answer long polls with
    304, and finish open requests. With --workers 2 or more, SIGHUP replaces the processes one after another
    without a failed request: for a new certificate, a new operator's token or a new version.
    """
    settings = settings_from(
        host=host,
        port=port,
        redis_url=redis_url,
        api_workers=workers,
        allow_unauthenticated=allow_unauthenticated,
        log_format=log_format,
        log_level=log_level,
        operator_token_file=operator_token_file,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        trusted_proxies=trusted_proxies,
    )
    if settings.redis_url is None:
        raise fail(
            "redis_url: expected --redis-url or MOEPLACE_REDIS_URL; `moeplace serve` brings its own", 2
        )
    try:
        logs.configure(settings.log_format, settings.log_level, process="api")
        if listen_fd is None and settings.api_workers > 1:
            status = asyncio.run(Supervisor(settings, api_only=True).run())
            if status:
                raise SystemExit(status)
            return
        operator_secret(settings)
        check_certificate(settings)
        if listen_fd is None:
            listener = open_listener(settings.host, settings.port)
        else:
            listener = socket.socket(fileno=listen_fd)
        asyncio.run(_check(settings, settings.redis_url))
    except (ListeningError, StorageError, SupervisorError, logs.LogLevelError) as error:
        raise fail(error) from None
    if listen_fd is None:
        warn_of_plain_http(settings)
        print(f"moeplace api is listening on {url_of(listener, scheme_of(settings))}", flush=True)
    run_api(settings, listener, started=lambda: _tell(ready_fd))


def _tell(descriptor: int | None) -> None:
    """Whoever waits at the other end of the pipe that requests are taken."""
    if descriptor is not None:
        os.write(descriptor, b"1")
        os.close(descriptor)


async def _check(settings: Settings, redis_url: str) -> None:
    async with await connect(redis_url) as redis:
        await require_operator(settings, redis)
        if settings.durable:
            await require_durability(redis)
