"""HiGHS within a limit: scipy's call of it cannot be interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from scipy import optimize

from solvers.stopping import Stopping

_POLL_SECONDS = 0.02


def answer_within(
    call: Callable[[], optimize.OptimizeResult], seconds: float, interrupted: Stopping
) -> optimize.OptimizeResult | None:
    """What `call` returns; None where it takes more than `seconds` or `interrupted` comes first.

    The call runs in a thread. One that is not waited for goes on there, so it needs a time limit of its own.
    Raises what the call raises.
    """
    answers: list[optimize.OptimizeResult] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            answers.append(call())
        except Exception as error:  # noqa: BLE001  raised again below, in the caller's thread
            errors.append(error)

    worker = threading.Thread(target=work, daemon=True)
    deadline = time.monotonic() + seconds
    worker.start()
    while worker.is_alive() and not interrupted() and time.monotonic() < deadline:
        worker.join(_POLL_SECONDS)
    if errors:
        raise errors[0]
    return answers[0] if answers else None
