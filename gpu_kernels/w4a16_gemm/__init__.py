"""4-bit weights, 16-bit activations: weights become 16-bit numbers, then a 16-bit product."""
