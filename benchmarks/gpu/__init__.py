"""What only a GPU can show: `python -m benchmarks.gpu` measures it and writes docs/gpu.md. One file a subject."""
