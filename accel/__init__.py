"""Hardware as data: machine files, DRAM standards, energy and area."""
