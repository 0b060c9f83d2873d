"""The whole system on one machine in one command: `python -m standalone`."""
