"""Times our kernels beside torch's and beside the card's own ceilings, in one run: `tilewright kernels bench`."""
