"""A batch travels to the device in one asynchronous copy of one pinned buffer, and is what it was."""

import torch
from pretended import pretended_cuda
from tiny import MODALITIES, mixed

from mot_gen.packing import pack


def test_a_batch_travels_in_one_copy():
    batch = pack(mixed(5), MODALITIES, 64)
    with pretended_cuda() as launches:
        moved = batch.to("cuda")
        assert launches.waited == 0
        assert sum(launches.waits.values()) == 1  # the asynchronous copy
        assert all(tensor.is_cuda for tensor in moved.tensors())
        assert all(torch.equal(tensor.cpu(), own) for tensor, own in zip(moved.tensors(), batch.tensors()))
        assert moved.latents["image"].grids == batch.latents["image"].grids
        back = moved.to("cpu")
    assert all(map(torch.equal, back.tensors(), batch.tensors()))
