"""Studies: their rows, the uploads that fill them, and their deletion."""
