"""The bundle that a worker serves: fetched, kept on disk, and replaced while the worker runs."""
