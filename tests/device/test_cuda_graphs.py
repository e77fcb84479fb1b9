"""Passes that are recorded as CUDA graphs, on the pretended device: the same results as on a CPU, one launch for all
layers, and no graph where a pass is not the same every time."""

import pytest
import torch
from both import assert_same, on_both
from pretended import pretended_cuda
from tiny import generator, model, words
from tiny_pipelines import build

from mot_gen.backbone import cuda_graphs, next_token
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.interleaved import InterleavedPipeline

BESIDE, TOKEN = 3, 9  # kernels: a graph's argument, itself and its result; and of a token without the layers
FEW = 8  # keys by which those in reach grow here


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    monkeypatch.setattr(next_token, "EXTENT", FEW)
    cuda_graphs.use()
    yield
    cuda_graphs.use(False)


@torch.no_grad()
def hidden_states(net, device: str) -> torch.Tensor:
    """(tokens, R, D) of two rows, first of one length. Beyond the first extent of keys one row stands still for a
    while, so that the rows differ from then on."""
    stream, found = Stream(net.to(device), [[words(4)], [words(4, 1)]], 3 * FEW), []
    for token in range(2 * FEW):
        stream.append([token % 7, token % 5], [True, token not in (FEW, FEW + 1)], "text")
        found.append(stream.hidden)
    return torch.stack(found).cpu()


def test_tokens_are_those_of_a_cpu():
    here = hidden_states(model(), "cpu")
    with pretended_cuda() as launches:
        there = hidden_states(model(), "cuda")
    made = launches.kernels["recording of a graph"]
    assert made == 4  # rows of one length: up to 8 and 16 keys; rows of two lengths: up to 16 and 24
    assert launches.kernels["graph"] == 2 * FEW - made
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)


def test_pictures_and_the_texts_around_them_are_those_of_a_cpu():
    """Guidance acts in some of the steps, so that there are passes over all rows and over half of them."""

    def told(pipe):
        order = ["text", "image", "text"]
        steps = {"num_inference_steps": 6, "guidance_scale": 3.0, "guidance_interval": (0.2, 0.7), "output_type": "pt"}
        return pipe(["a "], modality_order=order, max_new_tokens=4, generator=[generator(0)], **steps).documents[0]

    assert_same(*on_both(InterleavedPipeline, build("PatchImageTokenizer", "flow", context=400), told))


@pytest.mark.parametrize("layers", [1, 3])
def test_all_layers_are_one_launch(layers):
    net = model(backbone={"layers": layers})
    with pretended_cuda() as launches, torch.no_grad():
        stream, seen = Stream(net.to("cuda"), [[words(1)]], FEW), []
        for _ in range(5):
            launches.clear()
            stream.append(stream.model.logits(stream.hidden).argmax(-1), None, "text")
            seen.append(launches.launched)
    assert seen[-1] == seen[-2] <= BESIDE + TOKEN, launches.report()


def test_a_block_that_is_watched_is_not_recorded():
    net, called = model(), []
    net.backbone.blocks[1].qkv.register_forward_hook(lambda *given: called.append(1))
    with pretended_cuda() as launches:
        hidden_states(net, "cuda")
    assert not launches.kernels["graph"] and len(called) > 2 * FEW
