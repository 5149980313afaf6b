"""`moeplace worker`."""

import asyncio
import os
import signal
from typing import Annotated

import typer
from prometheus_client import start_http_server

from app.cli.settings import LogFormatOption, LogLevel, RedisUrl, fail, settings_from
from app.config import Settings
from app.observability import exposition, logs, metrics
from app.runtime.garbage import collect_seldom
from app.runtime.loop import new_event_loop
from app.solver_process.process import TaskError
from app.storage.client import StorageError, connect


def worker_command(
    redis_url: RedisUrl = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve Prometheus metrics on this port.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for --metrics-port.")] = "127.0.0.1",
    log_format: LogFormatOption = None,
    log_level: LogLevel = None,
) -> None:
    """Run only a worker, which folds telemetry, solves and plans for its share of the clusters.

    Any number of workers may run. When one ends, others take over its clusters. SIGTERM ends it in order.
    """
    settings = settings_from(redis_url=redis_url, log_format=log_format, log_level=log_level)
    if settings.redis_url is None:
        raise fail(
            "redis_url: expected --redis-url or MOEPLACE_REDIS_URL; `moeplace serve` brings its own", 2
        )
    try:
        logs.configure(settings.log_format, settings.log_level, process="worker")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_run(settings, settings.redis_url, metrics_host, metrics_port))
    except (StorageError, TaskError, logs.LogLevelError) as error:
        raise fail(error) from None


async def _run(settings: Settings, redis_url: str, metrics_host: str, metrics_port: int | None) -> None:
    stop = asyncio.Event()

    def asked_to_end() -> None:
        if stop.is_set():  # asked twice: at once
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_end)
    redis = await connect(redis_url)
    try:
        if metrics_port is not None:
            try:
                start_http_server(metrics_port, metrics_host, exposition.registry())
            except OSError as error:
                raise fail(
                    f"metrics-port: cannot listen on {metrics_host} port {metrics_port}: {error.strerror}"
                ) from None
        metrics.announce_build()
        # Late: it loads numba, which a server that cannot be reached should not have to wait for.
        from app.worker.worker import run

        collect_seldom()
        await run(settings, redis, stop)
    finally:
        await redis.aclose()
