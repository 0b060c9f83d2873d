"""The `thoraq` command's parts: batches, tables, progress; client/cli.py puts them together."""
