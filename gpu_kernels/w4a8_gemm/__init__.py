"""4-bit weights times 8-bit activations."""
