"""With `--processor` among the arguments: a clock that runs as fast as this process's processors work.

Import it before the solvers, which keep the clock that they find. A limit of so many seconds then ends after
the work that two idle processors do in them, however crowded the machine is.
"""

import sys
import time

PARALLEL = 1.6  # seconds of processor that a solve takes per second on two idle processors

CLOCK = "processor" if "--processor" in sys.argv else "clock"
if CLOCK == "processor":
    vars(time)["monotonic"] = lambda: time.process_time() / PARALLEL
