"""`moeplace serve`."""

import asyncio

from app import logs
from app.cli.settings import (
    AllowUnauthenticated,
    ApiWorkers,
    DataDir,
    Host,
    LogFormatOption,
    LogLevel,
    Port,
    RedisUrl,
    fail,
    settings_from,
)
from app.listening import ListeningError
from app.serve import Supervisor, SupervisorError
from app.storage.client import StorageError
from app.storage.embedded import EmbeddedServerError


def serve_command(
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    workers: ApiWorkers = None,
    allow_unauthenticated: AllowUnauthenticated = None,
    log_format: LogFormatOption = None,
    log_level: LogLevel = None,
) -> None:
    """Run the whole service here: API, worker and, unless a Redis is given, a Valkey of its own.

    Prints one line with its URL on standard output once it is ready. Any of its processes that dies is
    started again. SIGTERM or Ctrl-C ends it in order, within 10 seconds and without losing anything it
    acknowledged; a second one ends it at once.
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
