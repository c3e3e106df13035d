"""Published tables beside ours: what `tilewright reproduce` prints."""
