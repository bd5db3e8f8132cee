"""Which samples are watched."""
