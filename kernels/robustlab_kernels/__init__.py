"""Attack operators on torch (and, where there is a CUDA device, Triton); useful to any attack library."""
