"""What SIGHUP means: the terminal is gone, or an operator wants the processes replaced."""

import os
import signal


class SighupPolicy:
    """Looked at once when the program starts, before the signal has a handler.

    The signal is sent by the system when a terminal closes, and by `kill -HUP` or a service manager's reload.
    Only in the first case there was a terminal and is none any more. Whoever started the program with `nohup`
    wants it to outlive its terminal.
    """

    def __init__(self) -> None:
        self._had_terminal = _has_terminal()
        self._outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def ends(self) -> bool:
        """Whether the signal that came says that the terminal is gone, and the program is to end with it."""
        return self._had_terminal and not self._outlives and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
