"""`python -m benchmarks.load`"""

import sys

from benchmarks.load import ingest

for row in ingest.measure(float(sys.argv[1]), int(sys.argv[2])):
    print(row)
