"""The transformer against Hugging Face's Llama and Qwen3 with copied weights; statements of untying; named sizes."""

import re

import pytest
import torch
from tiny import MODALITIES, mixed, words
from tiny_backbones import build, inputs

from mot_gen.backbone import load
from mot_gen.errors import InputError
from mot_gen.flops import count_parameters
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack, pack_rows
from mot_gen.sequence import Modality

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def interleaved(weight, heads):
    """Rows of a projection whose rotary pairs are (j, j + D/2), Hugging Face's, in the order (2 j, 2 j + 1), ours."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def copy_layer(block, layer, heads, kv_heads):
    attention, mlp = layer.self_attn, layer.mlp
    qkv = [interleaved(attention.q_proj.weight, heads), interleaved(attention.k_proj.weight, kv_heads)]
    for ours, theirs in [
        (block.qkv, torch.cat([*qkv, attention.v_proj.weight])),
        (block.out, attention.o_proj.weight),
        (block.ffn.gate_up, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])),
        (block.ffn.down, mlp.down_proj.weight),
        (block.attention_norm, layer.input_layernorm.weight),
        (block.ffn_norm, layer.post_attention_layernorm.weight),
    ]:
        ours.weight.copy_(theirs[None])
    if block.q_norm is not None:
        block.q_norm.weight.copy_(interleaved(attention.q_norm.weight, 1)[None])
        block.k_norm.weight.copy_(interleaved(attention.k_norm.weight, 1)[None])


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
@pytest.mark.parametrize("kv_heads", [4, 2], ids=["multi-head", "grouped-query"])
@torch.no_grad()
def test_parity_with_hugging_face(family, kv_heads):
    import transformers

    torch.manual_seed(0)
    theirs = getattr(transformers, f"{family}Model")(
        getattr(transformers, f"{family}Config")(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            head_dim=8,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        )
    ).eval()
    for name, parameter in theirs.named_parameters():
        if "norm" in name:
            parameter.add_(0.2 * torch.randn(parameter.shape))
    shape = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": kv_heads, "ffn_dim": 48, "rope_theta": 500.0}
    module, config = load("dense", {**shape, "qk_norm": family == "Qwen3", "norm": "pre"})
    ours = module.Backbone(config, MODALITIES)
    for block, layer in zip(ours.blocks, theirs.layers):
        copy_layer(block, layer, 4, kv_heads)
    ours.final_norm.weight.copy_(theirs.norm.weight[None])
    batch = pack([[words(38)]], MODALITIES, 40)
    embedded = theirs.embed_tokens(batch.ids)
    want = theirs(inputs_embeds=embedded).last_hidden_state
    torch.testing.assert_close(ours(embedded, batch.layout), want, **CLOSE)


@pytest.mark.parametrize("options", [{}, {"norm": "output"}, {"qk_norm": False}, {"kv_heads": 2}], ids=str)
@torch.no_grad()
def test_towers_with_equal_weights_are_the_dense_model(options):
    dense, untied = build("dense", **options), build("mot", **options)
    for name, parameter in untied.named_parameters():
        parameter.copy_(dense.get_parameter(name).expand_as(parameter))
    layout = pack(mixed(4), MODALITIES, 48).layout
    x = inputs(*layout.shape)
    torch.testing.assert_close(untied(x, layout), dense(x, layout), **CLOSE)
    next(untied.parameters())[1].mul_(1.5)
    assert not torch.allclose(untied(x, layout), dense(x, layout), atol=1e-3)


@pytest.mark.parametrize("untied", [("ffn",), ("qkv", "ffn"), ("final_norm",), ("qk_norm",)], ids="+".join)
@torch.no_grad()
def test_only_the_named_parts_are_untied(untied):
    backbone = build("mot", untied=untied)
    prefixes = {"ffn": ("ffn.",), "qkv": ("qkv.",), "qk_norm": ("q_norm.", "k_norm."), "final_norm": ("final_norm.",)}
    wanted = {
        name
        for name, _ in backbone.named_parameters()
        if re.sub(r"^blocks\.\d+\.", "", name).startswith(sum((prefixes[part] for part in untied), ()))
    }
    assert backbone.untied_parameters().keys() == wanted != set()
    layout = pack_rows([mixed(4)], MODALITIES, 100).layout
    x = inputs(*layout.shape)
    before = backbone(x, layout)
    for name in wanted:
        weight = backbone.get_parameter(name)[2]  # the speech tower's
        weight.copy_(weight.flip(0) * 1.3)
    after, spoken = backbone(x, layout), layout.modality == 2
    without_speech = layout.document != 2
    assert not torch.allclose(after[spoken], before[spoken], atol=1e-3)
    torch.testing.assert_close(after[without_speech], before[without_speech], **CLOSE)


@torch.no_grad()
def test_modalities_that_share_a_tower_are_one_to_the_backbone():
    """Leave-one-out: with text and speech in one tower, calling a speech token text changes nothing."""
    backbone = build("mot", towers={"language": ["text", "speech"], "vision": ["image"]})
    layout = pack([mixed(3)[2]], MODALITIES, 40).layout
    x = inputs(*layout.shape)
    before = backbone(x, layout)
    layout.modality = torch.where(layout.modality == 2, 0, layout.modality)
    assert (
        backbone.towers == ["language", "vision"] and backbone.qkv_towers() == 2
        if hasattr(backbone, "qkv_towers")
        else len(backbone.blocks[0].qkv.weight) == 2
    )
    torch.testing.assert_close(backbone(x, layout), before, **CLOSE)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_sdpa_and_flex_give_the_same_output():
    layout = pack(mixed(8), MODALITIES, 128).layout
    x = inputs(*layout.shape)
    flex = build("mot", attention="flex")(x, layout)
    torch.testing.assert_close(flex, build("mot", attention="sdpa")(x, layout), **CLOSE)


def named(size, modalities, kind="mot"):
    with torch.device("meta"):
        model = MultimodalModel(modalities=[vars(m) for m in modalities], backbone={"kind": kind, "size": size})
    assert all(p.is_meta for p in model.parameters())
    return model


# The joint vocabularies are 65,536 and 32,000 ids with their special tokens: 2, and 2 more for each further modality.
CHAMELEON = [Modality("text", vocab_size=65_536 - 4 - 8192), Modality("image", vocab_size=8192)]
TRANSFUSION = [
    Modality("text", vocab_size=32_000 - 4),
    Modality("image", channels=32, bidirectional=True, objective="flow"),
]


@pytest.mark.parametrize(
    "size, modalities, millions",
    [
        ("37M", CHAMELEON, 37.0),
        ("94M", CHAMELEON, 94.4),
        ("443M", CHAMELEON, 442.5),
        ("880M", CHAMELEON, 880.8),
        ("1.5B", CHAMELEON, 1501.6),
        ("7B", CHAMELEON, 7012.9),
        ("163M", TRANSFUSION, 162.4),
        ("760M", TRANSFUSION, 777.8),
        ("1.4B", TRANSFUSION, 1364.2),
        ("7B", TRANSFUSION, 6738.1),
    ],
)
def test_named_sizes_have_the_papers_active_parameters(size, modalities, millions):
    """The figures are of the matrices; the norms come on top: Llama 2 7B has 6738.4 M with them."""
    model = named(size, modalities)
    config, counted = model.backbone.config, count_parameters(model)
    norms = config.dim + 2 * config.layers * (config.dim + config.head_dim)
    assert (counted.active - norms) / 1e6 == pytest.approx(millions, abs=0.05)
    assert counted.total > counted.active
    assert count_parameters(named(size, modalities, "dense")).active == counted.active


def test_total_parameters_at_443m():
    """arXiv 2411.04996: MoT-2 751M, MoT-3 1059M."""
    three = [Modality("text", vocab_size=65_536 - 6 - 8192 - 500), CHAMELEON[1], Modality("speech", vocab_size=500)]
    assert count_parameters(named("443M", CHAMELEON)).total / 1e6 == pytest.approx(751, abs=1)
    assert count_parameters(named("443M", three)).total / 1e6 == pytest.approx(1059, abs=1)


@pytest.mark.parametrize(
    "kind, options, complaint",
    [
        ("mott", {}, "did you mean 'mot'"),
        ("mot", {"size": "95M"}, "did you mean '94M'"),
        ("mot", {"dim": 32, "layers": 2}, "backbone.heads: must be a positive integer"),
        ("mot", {"dim": 32, "layers": -1, "heads": 4}, "backbone.layers: must be a positive integer .*got -1"),
        ("mot", {"dim": 30, "layers": 1, "heads": 4}, "backbone.dim: 30"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "kv_heads": 3}, "backbone.kv_heads: 3 must divide"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "kv_heads": 0}, "backbone.kv_heads: must be a positive integer"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "ffn_dim": -4}, "backbone.ffn_dim: must be a positive.*got -4"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "multiple_of": 0}, "backbone.multiple_of: must be a positive"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "norm_eps": -1.0}, "backbone.norm_eps: .* at least 0, got -1.0"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "z_weight": float("inf")}, "backbone.z_weight: must be finite"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "balance_weight": {"a": float("nan")}}, "balance_weight.*got nan"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "rope_theta": 0.0}, "backbone.rope_theta: .* got 0.0"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "untied": ["fnn"]}, "backbone.untied: 'fnn'.*did you mean 'ffn'"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "norm": "post"}, "backbone.norm: 'post'"),
        ("mot", {"dim": 32, "layers": 1, "heads": 4, "attention": "flash"}, "backbone.attention: 'flash'"),
    ],
)
def test_bad_options_name_their_field(kind, options, complaint):
    with pytest.raises(InputError, match=complaint):
        load(kind, options)


@torch.no_grad()
def test_a_narrow_tower_is_the_model_of_its_width():
    """Words alone, in a tower of 16 of the 32 channels: the transformer of width 16 with the same heads."""
    wide = build("mot", widths={"text": 16})
    module, config = load("dense", {"dim": 16, "head_dim": 8, "layers": 2, "heads": 4, "ffn_dim": 48})
    narrow = module.Backbone(config, MODALITIES).eval()
    assert wide.config.ffn_dim == 96
    for name, parameter in narrow.named_parameters():
        own = wide.get_parameter(name if "q_norm" in name or "k_norm" in name else f"{name}.0")
        parameter.copy_(own[:1])
    layout = pack([[words(9)]], MODALITIES, 11).layout
    x = inputs(1, 11)
    got = wide(x, layout)
    torch.testing.assert_close(got[..., :16], narrow(x[..., :16], layout), **CLOSE)
    assert not got[..., 16:].any()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"widths": {"imag": 16}}, "backbone.widths: 'imag' is not a tower.*did you mean 'image'"),
        ({"widths": {"image": 64}}, "backbone.widths: image must be from 1 to backbone.dim, 32, got 64"),
        ({"widths": {"text": 8, "image": 16, "speech": 16}}, "no tower is as wide as backbone.dim, 32; say .*=16"),
        ({"widths": {"image": 16}, "untied": ["ffn"]}, "backbone.widths: .*untie attention_norm, qkv, out"),
        ({"widths": {"image": 16}, "experts": 2}, "backbone.widths: .*drop experts"),
    ],
    ids=str,
)
def test_widths_that_cannot_be_are_refused(options, complaint):
    with pytest.raises(InputError, match=complaint):
        build("mot", **options)


@pytest.mark.parametrize(
    "towers, complaint",
    [
        ({"a": ["text", "imag"], "b": ["speech"]}, r"backbone.towers.a: 'imag'.*did you mean 'image'"),
        ({"a": ["text", "image"], "b": ["image", "speech"]}, r"backbone.towers.b: 'image' is in another"),
        ({"a": ["text"], "b": ["image"]}, "no tower has speech"),
    ],
)
def test_bad_towers_name_their_field(towers, complaint):
    with pytest.raises(InputError, match=complaint):
        build("mot", towers=towers)


def test_a_size_yields_to_what_is_given_beside_it():
    _, config = load("mot", {"size": "37M", "layers": 2})
    assert (config.dim, config.layers, config.heads, config.ffn_dim) == (256, 2, 8, 768)


@torch.no_grad()
def test_positions_are_not_rounded_with_the_weights():
    """A cast to bf16 and back must leave the rotation as it was; only the weights may be rounded."""
    layout = pack(mixed(4), MODALITIES, 48).layout
    backbone = build("mot")
    turning = backbone.blocks[0].turning
    before = backbone.plan(layout).made[turning]
    assert torch.equal(backbone.to(torch.bfloat16).float().plan(layout).made[turning], before)
