"""Logs of the service's processes: those of `moeplace_agent.logs`, with the trace of the request.

Every line logged while a request is answered carries its `trace_id` (`app.http.trace`). The code that works
on a cluster binds `cluster_id` with `structlog.contextvars.bind_contextvars`.
"""

from app.observability.trace import add_trace_id
from moeplace_agent import logs
from moeplace_agent.logs import LogFormat, LogLevelError, quiet_libraries

__all__ = ["LogLevelError", "configure", "quiet_libraries"]


def configure(log_format: LogFormat, level: str, *, process: str) -> None:
    """Send all logs to stderr; `process` (serve, api, worker) is in every line."""
    logs.configure(log_format, level, process=process, add=add_trace_id)
