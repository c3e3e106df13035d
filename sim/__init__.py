"""Time and memory: the Plan, its two engines, the DRAM controller. Knows no accelerator."""
