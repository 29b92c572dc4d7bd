"""What a GPU does in kernels of our own, in Triton's language; imported where there is one alone."""
