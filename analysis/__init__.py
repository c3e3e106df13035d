"""Sweeps, reports, published tables and the command line."""
