"""How the weights of a checkpoint are held, and in which dtype they compute: DTYPES, COMPUTED, check_storage."""

from __future__ import annotations

from mot_gen.errors import require

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # of weights: names of commands, and of torch
# In which dtypes is computed where weights are in memory, on the disk, or in 8 bits. The latter two are for a CPU, on
# which nothing is computed in fp16.
COMPUTED = {"memory": tuple(DTYPES), "disk": ("fp32", "bf16"), "int8": ("fp32",)}


def check_storage(weights: str, dtype: str) -> None:
    """InputError for weights that are held in a way in which nothing of this dtype is computed."""
    possible = COMPUTED.get(weights, tuple(DTYPES))
    require(dtype in possible, f"--weights {weights}: does not go with --dtype {dtype}; take {' or '.join(possible)}")
