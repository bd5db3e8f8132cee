"""One forward, watched."""
