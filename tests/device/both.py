"""A pipeline's call on the CPU and on the pretended device: on_both, assert_same, quiet."""

import copy

import torch
from pretended import pretended_cuda


def quiet(cls, parts: dict):
    pipe = cls(**copy.deepcopy(parts))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def on_both(cls, parts: dict, call) -> tuple:
    """What a call gives on the CPU and on the device."""
    here = call(quiet(cls, parts))
    with pretended_cuda():
        there = call(quiet(cls, parts).to("cuda"))
    return here, there


def assert_same(here, there) -> None:
    for one, other in zip(here, there, strict=True):
        if isinstance(one, str):
            assert one == other
        else:
            torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(one), atol=1e-4, rtol=1e-3)
