"""The input gate: fitted to a backbone, on pictures that are no chest images."""
