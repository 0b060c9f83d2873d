"""Studies: creating them at once or in pieces, reading and deleting them, and previews of their images."""
