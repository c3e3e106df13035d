"""GPU models fitted to measurements, and how far predictions are off on points that no fit has seen."""
