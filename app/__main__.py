"""`python -m app` is `moeplace`."""

from app.cli import main

if __name__ == "__main__":
    main()
