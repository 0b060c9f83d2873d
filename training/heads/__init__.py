"""Heads on kept features: fitted, shrunk, calibrated, and judged on patients and sources that they did not see."""
