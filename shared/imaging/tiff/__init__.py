"""TIFF: its directories and its pixels."""
