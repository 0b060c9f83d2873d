"""What training writes: networks, int8 files, the card, and the README that people read."""
