"""Batches: many studies in one request, as a ZIP, as NDJSON or as a form; and their results."""
