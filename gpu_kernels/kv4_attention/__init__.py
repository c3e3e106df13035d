"""Attention of one decode step over a 4-bit key and value cache."""
