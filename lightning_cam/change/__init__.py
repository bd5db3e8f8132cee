"""What changed since earlier looks, was it more than noise, and which parts of a net account for how much of it."""
