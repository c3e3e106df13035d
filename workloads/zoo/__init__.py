"""Named models at their published configurations, with random or no weights: what `tilewright trace export` can run."""
