"""The networks below every head: where their weights come from, and what they learn without labels."""
