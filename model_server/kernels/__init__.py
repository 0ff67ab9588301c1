"""What runs a step fast: the batch and cache layout every backend shares, and the backends themselves."""
