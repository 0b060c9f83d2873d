"""Labelled images of many sources: what is read, which belong together, which are the same picture."""
