"""Inside the host's network: its attention, its conditions and their rows."""
