"""Thoraq beside what a hospital would pick instead, measured in one run on one machine: `python -m bench`."""

import os

# Before numpy loads, as worker/ does: its threads would spin beside the engines that are measured.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
