"""The state of torch's generators, to go on with the same draws: random_state, set_random_state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def random_state() -> dict[str, Tensor]:
    """State of torch's generators, uint8: "cpu", and "cuda:0", ... of the devices, where this process has used any."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            state[f"cuda:{number}"] = torch.cuda.get_rng_state(number)
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Restore what `random_state` gave; devices that are not here any more are passed over."""
    torch.set_rng_state(state["cpu"])
    if not torch.cuda.is_available():
        return
    for number in range(torch.cuda.device_count()):
        if f"cuda:{number}" in state:
            torch.cuda.set_rng_state(state[f"cuda:{number}"], number)
