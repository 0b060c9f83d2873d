"""The ZIP format, read as a stream."""
