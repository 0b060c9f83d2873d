"""Files on their way in: sent with a request, or uploaded directly to the store."""
