"""Webhooks: which events become deliveries, and where deliveries may go."""
