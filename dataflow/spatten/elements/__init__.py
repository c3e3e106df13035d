"""SpAtten element by element, in SimPy: the readable hardware (docs/elements.md). Start with `accelerator.py`."""
