"""Limits on what comes in: rates per key and tenant, free space, and requests that wait."""
