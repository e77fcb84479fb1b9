"""Where networks of metrics run: device_of."""

from __future__ import annotations

import torch

from mot_gen.errors import InputError


def device_of(name: str | torch.device) -> torch.device:
    """The device of a name, such as "cpu" or "cuda:1". InputError where PyTorch knows none, or none is here."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device: {name!r} is not known; give cpu, or another name of PyTorch's") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device: {device} is not on this machine; give cpu, or one that is") from error
    return device
