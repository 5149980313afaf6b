"""How often long-lived processes look for cycles among their objects."""

import gc

THRESHOLDS = 50_000, 20, 50
"""Young objects between collections: requests and windows make few cycles, and a collection at the default
threshold of 700 stops the loop for tens of milliseconds now and then."""


def collect_seldom() -> None:
    """Called once what lives as long as the process is there: it is looked at no more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
