"""Celery workers: claim, load, decode, preprocess, infer, finish; webhook delivery; the sweeper."""
