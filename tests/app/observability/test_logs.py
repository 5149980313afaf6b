"""Log lines: one JSON object each for collectors, readable for people, and nothing secret in tracebacks."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import logging, sys
import structlog
from moeplace_agent.logs import LogFormat
from app.observability.logs import configure

configure(LogFormat(sys.argv[1]), "info", process="api")
log = structlog.stdlib.get_logger("app.test")
with structlog.contextvars.bound_contextvars(trace_id="abc", cluster_id="east"):
    log.info("folded %d windows", 3, node_id="n1", path="/\\x1b[31m")
    logging.getLogger("uvicorn.error").warning("from %s", "uvicorn")
logging.getLogger("uvicorn.error").info("not shown")
log.debug("not shown either")
try:
    password = "s3cret-word"
    raise RuntimeError("broken")
except RuntimeError:
    log.exception("failed")
"""


def lines(log_format: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, log_format], capture_output=True, text=True, check=True
    )
    assert ended.stdout == ""
    return ended.stderr.splitlines()


def test_json_lines() -> None:
    """Every line is a JSON object with time, level, process and what was bound, of our loggers and others."""
    ours, theirs, failure = map(json.loads, lines("json"))
    assert ours["message"] == "folded 3 windows"
    assert (ours["trace_id"], ours["cluster_id"], ours["node_id"]) == ("abc", "east", "n1")
    assert (ours["level"], ours["logger"], ours["process"]) == ("info", "app.test", "api")
    assert ours["timestamp"].endswith("Z")
    assert (theirs["message"], theirs["trace_id"]) == ("from uvicorn", "abc")
    assert failure["exception"][0]["exc_value"] == "broken"
    assert "trace_id" not in failure
    assert "s3cret-word" not in json.dumps(failure)


def test_console_lines() -> None:
    """People get the words first, then what belongs to them, and a traceback without values; what a client
    sent cannot steer their terminal."""
    text = lines("console")
    assert "folded 3 windows" in text[0]
    assert "trace_id=abc" in text[0]
    assert "\x1b" not in text[0]
    assert r"path=/\x1b[31m" in text[0]
    assert "from uvicorn" in text[1]
    assert text[-1] == "RuntimeError: broken"


def test_unknown_level_is_refused() -> None:
    """A level that is none is named with those there are."""
    from app.observability.logs import LogLevelError, configure
    from moeplace_agent.logs import LogFormat

    with pytest.raises(LogLevelError, match=r"log_level: expected one of debug, .*, got 'loud'"):
        configure(LogFormat.JSON, "loud", process="api")
