"""W4A8 and W8A8 for every GPU from sm_80 on, by mma.sync."""
