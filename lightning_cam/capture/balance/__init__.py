"""A forward whose backward is balanced: what reaches the layer, with the biases behind it, adds up to the score."""
