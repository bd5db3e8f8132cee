"""What changed since the baseline: which parts of a net account for how much of the drift of its maps."""
