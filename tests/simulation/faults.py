"""What may go wrong, how often, and until when."""

import random
from dataclasses import dataclass


@dataclass
class Faults:
    """Probabilities are per request. All are 0 once `over`."""

    rng: random.Random
    lost: float = 0.0
    """A request never arrives."""
    unanswered: float = 0.0
    """A request is done, and its answer never arrives."""
    late: float = 0.0
    """The sender gives a request up, and it is done up to `late_seconds` afterwards, out of order."""
    repeated: float = 0.0
    """A request is done a second time, up to `late_seconds` afterwards."""
    late_seconds: float = 8.0
    slow: float = 0.0
    """An exchange takes up to `slow_seconds` instead of milliseconds."""
    slow_seconds: float = 5.0
    fetch_fails: float = 0.0
    """A copy breaks off half-way."""
    fetch_stalls: float = 0.0
    """A copy makes no progress any more, for up to two minutes."""
    store_breaks: float = 0.0
    """A worker's connection to the store breaks, per exchange."""
    unheard: float = 0.0
    """A published message is lost."""

    def over(self) -> None:
        for name in ("lost", "unanswered", "late", "repeated", "slow", "fetch_fails", "fetch_stalls"):
            setattr(self, name, 0.0)
        self.store_breaks = self.unheard = 0.0

    def happens(self, probability: float) -> bool:
        return probability > 0.0 and self.rng.random() < probability

    def delay(self) -> float:
        """Seconds one way."""
        if self.happens(self.slow):
            return self.rng.uniform(0.0, self.slow_seconds)
        return self.rng.uniform(0.0005, 0.01)


def harmless(rng: random.Random) -> Faults:
    return Faults(rng)


def severe(rng: random.Random) -> Faults:
    """Each kind of fault is there in half of the runs, more or less often."""

    def some(most: float) -> float:
        return rng.uniform(0.0, most) if rng.random() < 0.5 else 0.0

    return Faults(
        rng,
        lost=some(0.2),
        unanswered=some(0.2),
        late=some(0.2),
        repeated=some(0.2),
        slow=some(0.3),
        fetch_fails=some(0.2),
        fetch_stalls=some(0.1),
        store_breaks=some(0.02),
        unheard=some(0.5),
    )
