"""The tenant's API keys, and the log of what was done with them."""
