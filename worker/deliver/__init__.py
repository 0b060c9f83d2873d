"""Webhooks out: what is due, signed and sent to receivers."""
