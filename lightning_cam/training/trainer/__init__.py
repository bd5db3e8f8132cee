"""What is Lightning's: when a Trainer looks, which of its samples, in which of its processes."""
