"""Points for fitting GPU models, measured on the GPU that is present; which of them are held out is settled before."""
