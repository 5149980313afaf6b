"""Logs: readable lines for people, JSON lines for collectors; the standard library's loggers included."""

import logging
import sys
from enum import StrEnum

import msgspec
import stamina.instrumentation
import structlog

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# Without the values of local variables: a URL among them may hold a password.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


class LogFormat(StrEnum):
    """console for people, json for collectors."""

    CONSOLE = "console"
    JSON = "json"


class LogLevelError(ValueError):
    """The level is none of those known; one line."""


def _escape(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Values come from clients too, and a terminal obeys control characters. `event` is our own words."""
    for name, value in event.items():
        if name != "event" and isinstance(value, str) and not value.isprintable():
            event[name] = repr(value)[1:-1]
    return event


def configure(
    log_format: LogFormat, level: str, *, process: str, add: structlog.typing.Processor | None = None
) -> None:
    """Send all logs to stderr; `process` (agent, origin, serve, api, worker) is in every line. `add` adds
    fields to each line."""
    number = _LEVELS.get(level.lower())
    if number is None:
        raise LogLevelError(f"log_level: expected one of {', '.join(_LEVELS)}, got {level!r}")
    as_json = log_format is LogFormat.JSON

    def name_process(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        *([] if add is None else [add]),
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(allow=()),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        name_process,
    ]
    if as_json:
        shared += [structlog.processors.EventRenamer("message"), _TRACEBACKS]
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer(
            serializer=lambda event, **_: msgspec.json.encode(event, enc_hook=repr).decode()
        )
    else:
        shared.append(_escape)
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # uvicorn's own start and stop lines repeat what serve says; its errors matter. No access log: /metrics
    # counts requests, and at thousands a second a line each costs more than the answers.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(number, logging.WARNING))
    quiet_libraries()


def quiet_libraries() -> None:
    """What libraries log of single requests and retries is said in our own words where it matters."""
    for name in ("httpx", "httpcore", "numba"):
        logging.getLogger(name).setLevel(logging.WARNING)
    stamina.instrumentation.set_on_retry_hooks([])
