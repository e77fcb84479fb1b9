"""What products of tokens with their towers' matrices are compared with: a loop, over MIXES of towers."""

import torch
from tiny import generator

MIXES = {
    "all towers": [0, 2, 1, 1, 0, 2, 2, 0, 1, 0, 2],
    "first empty": [2, 1, 1, 2, 1],
    "middle empty": [0, 2, 2, 0],
    "last empty": [1, 0, 0, 1],
    "one tower alone": [1, 1, 1, 1],
}


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def by_loop(x, weight, tower):
    """Each token times its tower's matrix, one after the other, in sequence order."""
    return torch.stack([weight[t] @ row for row, t in zip(x, tower.tolist())])
