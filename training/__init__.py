"""From labelled image folders to a calibrated, measured model bundle."""

import os

# TensorFlow reads it once, when it is imported, which the modules here do.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
