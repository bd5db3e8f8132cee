"""How a network is read."""
