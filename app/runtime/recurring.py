"""A warning that comes again and again is said once, then now and then with how often it came."""

import time

import structlog

EVERY_SECONDS = 30.0


class Recurring:
    """One kind of trouble of one place: said when it begins, every EVERY_SECONDS while it lasts, and when it
    is over."""

    def __init__(self, log: structlog.stdlib.BoundLogger, event: str) -> None:
        self._log = log
        self._event = event
        self._since: float | None = None
        self._said_at = 0.0
        self._unsaid = 0

    def warn(self, **fields: object) -> None:
        now = time.monotonic()
        if self._since is not None and now - self._said_at < EVERY_SECONDS:
            self._unsaid += 1
            return
        if self._since is None:
            self._log.warning(self._event, **fields)
        else:
            self._log.warning(
                self._event, **fields, again=self._unsaid + 1, for_seconds=round(now - self._since)
            )
        self._since = now if self._since is None else self._since
        self._said_at, self._unsaid = now, 0

    def over(self) -> None:
        """It went well this time. To be called whenever it does."""
        if self._since is None:
            return
        if self._unsaid or time.monotonic() - self._since >= EVERY_SECONDS:
            seconds = round(time.monotonic() - self._since, 1)
            self._log.info(f"no longer: {self._event}", after_seconds=seconds, unsaid=self._unsaid)
        self._since, self._unsaid = None, 0
