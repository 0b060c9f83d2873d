"""Celery workers: claim, load, decode, preprocess, infer, finish; webhook delivery; the sweeper."""

import os

# Before numpy loads: the heads' products are too small to share, and on busy cores two threads that wait for each other
# take a hundred times as long as one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
