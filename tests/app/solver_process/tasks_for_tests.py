"""Tasks for a solver process, which imports them by name."""

import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt


def warm() -> None:
    pass


def own_pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def spin(seconds: float) -> None:
    """Pure Python at full speed, as a solver outside its kernels."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def double(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values * 2.0


def fail(words: str) -> None:
    raise ValueError(words)


def crash() -> None:
    os._exit(3)


def dies_until(folder: Path, starts: int) -> None:
    """Warm-up that ends its process until it has been called so many times."""
    (folder / str(os.getpid())).touch()
    if starts_in(folder) < starts:
        crash()


def starts_in(folder: Path) -> int:
    return len(list(folder.iterdir()))
