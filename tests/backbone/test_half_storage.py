"""Half storage: products of rounded matrices exactly, what ends it, and who is refused or told of it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import MODALITIES, clean, mixed, model, rounded
from towers_by_loop import MIXES, by_loop, random

import mot_gen.backbone.storage.half_storage
from mot_gen.backbone.routing import UntiedLinear, route
from mot_gen.backbone.storage.half_storage import HalfStorage, Projection, has_fbgemm, store_in_half
from mot_gen.errors import InputError
from mot_gen.packing import pack_rows
from mot_gen.pipelines.text_to_image import TextToImagePipeline

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
needs_fbgemm = pytest.mark.skipif(not has_fbgemm(), reason="needs FBGEMM, which PyTorch has on x86 with AVX2")


def batch():
    return clean(pack_rows([mixed(3), mixed(4)[2:]], MODALITIES, 60), 0.5)


@pytest.fixture(params=["alone", "among threads"], autouse=True)
def way(request, monkeypatch):
    """Both ways to FBGEMM."""
    if request.param == "among threads":
        monkeypatch.setattr(mot_gen.backbone.storage.half_storage, "FEW", 0)


@needs_fbgemm
@pytest.mark.parametrize("tokens", [1, 3, 64])
@pytest.mark.parametrize("shape", [(5, 7), (96, 32), (33, 130)], ids=str)
@torch.no_grad()
def test_a_product_is_that_of_the_rounded_matrix(shape, tokens):
    layer, x = Projection(shape[1], shape[0]), random(tokens, shape[1])
    store_in_half(layer)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight.half().float()), **CLOSE)
    assert not torch.equal(layer(x), F.linear(x, layer.weight))


@needs_fbgemm
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_every_token_meets_its_own_towers_matrix(mix, bias):
    tower, layer = torch.tensor(mix), UntiedLinear(8, 12, 3, bias=bias)
    for number, parameter in enumerate(layer.parameters()):
        parameter.copy_(random(*parameter.shape, seed=number))
    store_in_half(layer)
    routing, x = route(tower, 3), random(len(mix), 8)
    want = by_loop(x, layer.weight.half().float(), tower) + (layer.bias[tower] if bias else 0)
    torch.testing.assert_close(routing.unsort(layer(routing.sort(x), routing)), want, **CLOSE)


@needs_fbgemm
@torch.no_grad()
def test_a_model_is_one_of_rounded_projections_and_keeps_its_weights():
    net = model()
    before, want = copy.deepcopy(net.state_dict()), rounded(net)(batch())
    net.enable_half_storage()
    got = net(batch())
    torch.testing.assert_close(got.logits, want.logits, **CLOSE)
    torch.testing.assert_close(got.latents["image"], want.latents["image"], **CLOSE)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


ENDS = {
    "training": lambda net: net.train().eval(),
    "a cast": lambda net: net.to(torch.float64),
    "a move": lambda net: net.to("meta"),
    "a loaded state": lambda net: net.load_state_dict(net.state_dict()) and net,
    "a copy": copy.deepcopy,
}


@needs_fbgemm
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_may_change_the_weights_ends_it(end):
    net = model()
    net.enable_half_storage()
    layers = [layer for layer in net.modules() if isinstance(layer, HalfStorage)]
    assert len(layers) > 4 and all(layer.halves for layer in layers)
    net.to("cpu").eval()  # changes nothing
    assert all(layer.halves for layer in layers)
    assert not any(layer.halves for layer in end(net).modules() if isinstance(layer, HalfStorage))


@needs_fbgemm
def test_where_gradients_are_wanted_the_weights_serve():
    layer, x = Projection(6, 4), random(2, 6)
    store_in_half(layer)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(4, 6))


@needs_fbgemm
@torch.no_grad()
def test_more_tokens_than_seen_and_strided_ones_are_multiplied():
    layer, x = Projection(16, 8), random(4, 5, 32)[..., ::2]
    store_in_half(layer)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight.half().float()), **CLOSE)


def test_it_is_for_fp32_on_a_cpu_with_fbgemm(monkeypatch):
    with pytest.raises(InputError, match="for float32 on the CPU, and the model is bfloat16 on cpu"):
        model().to(torch.bfloat16).enable_half_storage()
    monkeypatch.setattr(mot_gen.backbone.storage.half_storage, "has_fbgemm", lambda: False)
    net = model()
    with pytest.raises(InputError, match="no FBGEMM for this CPU; use fp32 or bf16"):
        net.enable_half_storage()
    assert net.head.halves is None


@pytest.mark.skipif(torch.accelerator.is_available(), reason="is about machines without a GPU")
def test_who_loads_in_fp16_on_a_cpu_is_told_of_it():
    with pytest.warns(UserWarning, match=r"load in float32 and call pipe.model.enable_half_storage\(\)"):
        pipe = TextToImagePipeline.from_pretrained("openmoji", dtype=torch.float16)
    assert pipe.model.dtype == torch.float16


@needs_fbgemm
def test_half_storage_is_not_compiled():
    net = model()
    net.enable_half_storage()
    with pytest.raises(InputError, match=r"half storage .* does not go with compiled blocks: use only one"):
        net.compile_repeated_blocks()
    net = model()
    net.compile_repeated_blocks()
    with pytest.raises(InputError, match="use only one of them"):
        net.enable_half_storage()
