"""What quantization does to answers and to layers: studies on real and on planted operands, and why SVDQuant works."""
