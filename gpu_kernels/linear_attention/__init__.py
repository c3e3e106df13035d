"""Sana's linear attention: ReLU instead of softmax, a state instead of keys and values."""
