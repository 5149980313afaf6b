"""`python -m app`, and the program `moeplace`."""

import signal


def main() -> None:
    """The command line. Ctrl-C while it loads ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from app.cli import main as run

    run()


if __name__ == "__main__":
    main()
