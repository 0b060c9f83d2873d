"""Jobs: submitting, polling, listing and cancelling them, and the artifacts of their results."""
