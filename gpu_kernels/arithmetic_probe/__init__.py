"""What a GPU's instructions round, cut and saturate: operands by seed, single instructions, their results."""
