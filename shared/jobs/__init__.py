"""Jobs: their states, who runs next, and the answers."""
