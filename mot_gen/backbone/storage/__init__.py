"""Weights that take less memory than fp32, for generation: in fp16, in 8 bits, or on the disk."""
