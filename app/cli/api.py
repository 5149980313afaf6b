"""`moeplace api`."""

import asyncio
import socket
from typing import Annotated

import typer

from app import logs
from app.cli.settings import (
    AllowUnauthenticated,
    ApiWorkers,
    Host,
    LogFormatOption,
    LogLevel,
    Port,
    RedisUrl,
    fail,
    settings_from,
)
from app.listening import ListeningError, open_listener, refuse_open_host, url_of
from app.serve import Supervisor, SupervisorError
from app.server import run_api
from app.storage.client import StorageError, connect
from app.storage.durable import require_durability


def api_command(
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    workers: ApiWorkers = None,
    allow_unauthenticated: AllowUnauthenticated = None,
    log_format: LogFormatOption = None,
    log_level: LogLevel = None,
    listen_fd: Annotated[int | None, typer.Option("--listen-fd", hidden=True)] = None,
) -> None:
    """Run API processes only, on a Redis or Valkey that workers share.

    Ready once a worker lives. SIGTERM drains: readiness goes down, long polls are answered with 304, open
    requests finish.
    """
    settings = settings_from(
        host=host,
        port=port,
        redis_url=redis_url,
        api_workers=workers,
        allow_unauthenticated=allow_unauthenticated,
        log_format=log_format,
        log_level=log_level,
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
        if listen_fd is None:
            refuse_open_host(settings.host, allowed=settings.allow_unauthenticated)
            listener = open_listener(settings.host, settings.port)
        else:
            listener = socket.socket(fileno=listen_fd)
        asyncio.run(_check(settings.redis_url, durable=settings.durable))
    except (ListeningError, StorageError, SupervisorError, logs.LogLevelError) as error:
        raise fail(error) from None
    if listen_fd is None:
        print(f"moeplace api is listening on {url_of(listener)}", flush=True)
    run_api(settings, listener)


async def _check(redis_url: str, *, durable: bool) -> None:
    async with await connect(redis_url) as redis:
        if durable:
            await require_durability(redis)
