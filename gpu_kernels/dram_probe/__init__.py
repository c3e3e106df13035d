"""Reads a GPU's DRAM as an attention accelerator would, and records time and the bytes that DRAM delivered."""
