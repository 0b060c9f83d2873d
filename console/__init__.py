"""What both commands, `thoraq` and `thoraq-admin`, share: how they print, and how they end when they cannot."""
