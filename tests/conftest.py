"""One thread a process: on small tensors two torch threads wait for each other most of the time.

On two busy cores that made tests three to ten times slower.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported
