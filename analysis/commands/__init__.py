"""The commands of `tilewright`, one noun a file."""
