"""Thoraq beside what a hospital would pick instead, measured in one run on one machine: `python -m bench`."""
