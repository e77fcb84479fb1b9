"""The whole model: packing changes nothing, saving, patch layers, counting, precision, and a batch learned by heart."""

import pytest
import torch
import torch.nn.functional as F
from tiny import IMAGE, MODALITIES, TEXT, clean, generator, mixed, model, picture, words
from torch.utils.flop_counter import FlopCounterMode

from mot_gen.backbone.modality_layers.patch_layers import build, grid_embedding
from mot_gen.errors import InputError
from mot_gen.flops import forward_flops
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.packing import pack, pack_rows
from mot_gen.pipelines.engine import Drawing, Rules, Stream, TextSampling, Writer, draw
from mot_gen.sequence import Modality

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
ON_GRID = Modality("image", channels=4, bidirectional=True, objective="flow", position="grid")
PATCHES = {
    "linear": ({}, MODALITIES),
    "unet": ({"patch_layers": {"image": {"kind": "unet", "width": 8}}}, MODALITIES),
    "grid": ({}, [TEXT, ON_GRID, MODALITIES[2]]),
    "diffusion": ({"objectives": {"image": {"kind": "diffusion"}}}, MODALITIES),
}
every_patch_layer = pytest.mark.parametrize("config, modalities", PATCHES.values(), ids=PATCHES)


def losses(net, batch):
    """Unreduced losses, masked, of a batch at time 0.5 whose continuous targets are a function of the values."""
    output = net(clean(batch, 0.5))
    targets = {name: latents.values.sin() for name, latents in batch.latents.items()}
    masks = net.loss_masks(batch)
    return output, {name: loss * masks[name] for name, loss in net.losses(batch, output, targets).items()}


@every_patch_layer
@torch.no_grad()
def test_packing_padding_and_neighbours_change_no_output_and_no_loss(config, modalities):
    net, samples = model(modalities, **config), mixed(4)
    want, want_losses = losses(net, pack_rows([[s] for s in samples], modalities, 22))
    for rows, length in (([samples], 80), ([samples[:2], samples[2:]], 44), ([[samples[0]], samples[1:], []], 61)):
        got, got_losses = losses(net, pack_rows(rows, modalities, length))
        torch.testing.assert_close(got.logits, want.logits, **CLOSE)
        torch.testing.assert_close(got.latents, want.latents, **CLOSE)
        torch.testing.assert_close(got_losses, want_losses, **CLOSE)


@torch.no_grad()
def test_later_text_changes_no_earlier_logit():
    net = model()
    before = net(clean(pack([[words(3), picture(2, 2), words(6)]], MODALITIES, 20)))
    changed = words(6)
    changed.values[3:] = (changed.values[3:] + 7) % 50
    after = net(clean(pack([[words(3), picture(2, 2), changed]], MODALITIES, 20)))
    torch.testing.assert_close(after.latents, before.latents, **CLOSE)
    same = (after.logits - before.logits).abs().amax(-1) < 1e-5
    # Three words, begin and end of the picture and three words more are predicted as before, from equal pasts.
    assert same.tolist() == [True] * 8 + [False] * 3


@torch.no_grad()
def test_a_token_of_a_picture_reaches_all_of_it_and_nothing_before_it():
    net = model()
    first, second = pack([[words(3), picture(2, 3)]], MODALITIES, 14), pack([[words(3), picture(2, 3)]], MODALITIES, 14)
    second.latents["image"].values = second.latents["image"].values.clone()
    second.latents["image"].values[-1] += 1
    before, after = net(clean(first)), net(clean(second))
    assert ((after.latents["image"] - before.latents["image"]).abs().amax(-1) > 1e-4).all()
    torch.testing.assert_close(after.logits[:4], before.logits[:4], **CLOSE)
    assert not torch.allclose(after.logits[4:], before.logits[4:], atol=1e-4)


@every_patch_layer
def test_a_modality_that_is_absent_gets_zero_gradients_not_missing_ones(config, modalities):
    net = model(modalities, **config)
    for sample in ([words(5)], [words(2), picture(2, 2)]):
        net.zero_grad()
        sum(loss.sum() for loss in losses(net, pack([sample], modalities, 12))[1].values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        touched = any(p.grad.any() for p in net.patch_layers.parameters())
        assert touched == (len(sample) == 2)


@every_patch_layer
@torch.no_grad()
def test_saved_and_loaded_it_says_the_same(config, modalities, tmp_path):
    net, batch = model(modalities, context=80, **config), pack(mixed(4), modalities, 48)
    net.save_pretrained(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    back = MultimodalModel.from_pretrained(tmp_path)
    before, after = net(clean(batch, 0.4)), back(clean(batch, 0.4))
    # The weights are the same bits; convolutions choose their kernel by the alignment of what they are given.
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), back.state_dict().values(), strict=True))
    tolerance = 1e-6 if "unet" in str(config) else 0
    torch.testing.assert_close(vars(after), vars(before), atol=tolerance, rtol=10 * tolerance)
    assert back.config.context == 80 and back.objectives == net.objectives and back.modalities == net.modalities


def test_towers_keep_their_order_whatever_their_names(tmp_path):
    """JSON is written with sorted keys, and towers are numbered in their order."""
    net = model(backbone={"towers": {"writes": ["text", "speech"], "draws": ["image"]}})
    net.save_pretrained(tmp_path)
    back = MultimodalModel.from_pretrained(tmp_path)
    assert back.backbone.towers == ["writes", "draws"]
    batch = clean(pack(mixed(2), MODALITIES, 48), 0.5)
    with torch.no_grad():
        assert torch.equal(net(batch).logits, back(batch).logits)


def test_a_config_builds_its_model():
    config = MultimodalConfig(MODALITIES, {"kind": "mot", "dim": 32, "layers": 1, "heads": 4}, context=64)
    net = MultimodalModel(**config.to_dict())
    assert net.modalities == MODALITIES and net.config.context == 64
    for section in ("objectives", "patch_layers"):
        with pytest.raises(InputError, match=f"{section}: 'imagge'.*did you mean 'image'"):
            MultimodalModel(**config.to_dict() | {section: {"imagge": {"kind": "linear"}}})
    with pytest.raises(InputError, match=r"patch_layers.image.kind: 'unett'.*did you mean 'unet'"):
        MultimodalModel(**config.to_dict() | {"patch_layers": {"image": {"kind": "unett"}}})
    with pytest.raises(InputError, match=r"patch_layers.image: unet has no option 'widht'.*did you mean 'width'"):
        MultimodalModel(**config.to_dict() | {"patch_layers": {"image": {"kind": "unet", "widht": 8}}})
    with pytest.raises(InputError, match="patch_size 4 must be a power of two whose square divides the 4 channels"):
        MultimodalModel(**config.to_dict() | {"patch_layers": {"image": {"kind": "unet", "patch_size": 4}}})


@torch.no_grad()
def test_an_untrained_model_predicts_the_mean_of_its_targets():
    net = model(shaken=False)
    output = net(clean(pack(mixed(4), MODALITIES, 48), 0.7))
    assert not output.latents["image"].any()
    uniform = torch.tensor(float(net.vocabulary.size)).log()
    assert 0 < output.logits.logsumexp(-1).mean() - uniform < 1


@torch.no_grad()
def test_the_unet_sees_the_picture_not_the_row_of_patches():
    """Its convolutions reach over the borders of patches; a picture's neighbours in the batch they do not reach."""
    layers = build(32, IMAGE, "unet", width=8)
    torch.manual_seed(0)
    for parameter in layers.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape))
    batch = clean(pack([[picture(3, 4, 1)], [picture(2, 2, 2)], [picture(3, 4, 3)]], MODALITIES, 40), 0.3)
    latents = batch.latents["image"]
    tokens, memory = layers.encode(latents)
    decoded = layers.decode(tokens, latents, memory)
    assert tokens.shape == (28, 32) and decoded.shape == (28, 4)
    moved = clean(batch, 0.3).latents["image"]
    moved.values = moved.values.clone()
    first = (moved.span == 0).nonzero().flatten()[0]
    moved.values[first] += 1
    changed = (layers.encode(moved)[0] - tokens).abs().amax(-1) > 1e-6
    span = moved.span[changed].unique().tolist()
    assert changed.sum() > 1 and span == [0]


def test_grid_embeddings_tell_rows_from_columns():
    embedding = grid_embedding([(2, 3), (3, 2)], 16)
    assert embedding.shape == (12, 16)
    first, second = embedding[:6].view(2, 3, 16), embedding[6:].view(3, 2, 16)
    assert torch.equal(first[0, :, :8], first[0, :1, :8].expand(3, 8)) and not torch.equal(first[0], first[1])
    assert torch.equal(first[0, :, 8:], first[1, :, 8:]) and not torch.equal(first[:, 0], first[:, 1])
    assert torch.equal(first[:2, :2], second[:2, :2])
    assert len(embedding[:6].unique(dim=0)) == 6
    assert grid_embedding([], 16).shape == (0, 16)


@torch.no_grad()
def test_bf16_autocast_is_within_one_percent_of_fp32():
    """Root-mean-square of the difference over that of the output: 2^-8 a rounding, some of them in a row."""
    net, batch = model(), pack(mixed(8), MODALITIES, 48)
    exact = net(clean(batch, 0.5))
    with torch.autocast("cpu", torch.bfloat16):
        low = net(clean(batch, 0.5))
    for a, b in ((low.logits, exact.logits), (low.latents["image"], exact.latents["image"])):
        assert 0 < (a.float() - b).square().mean().sqrt() / b.square().mean().sqrt() < 0.01


def test_flops_are_those_that_torch_counts():
    """FlopCounterMode sees no SDPA on a CPU."""
    net, batch = model(backbone={"kind": "dense"}), clean(pack(mixed(4), MODALITIES, 48))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(batch)
    config, (rows, length) = net.backbone.config, batch.layout.shape
    attention = 4 * config.layers * rows * length**2 * config.dim
    assert counter.get_total_flops() == forward_flops(net, batch) - attention
    assert forward_flops(model(), batch) == forward_flops(net, batch)


def one_batch():
    """Two captions with their pictures, and two other pictures with their captions."""
    pictures = [picture(2, 2, seed) for seed in range(4)]
    captions = [words(n, 10 + n) for n in (4, 6, 3, 5)]
    return (
        captions,
        pictures,
        [
            [captions[0], pictures[0]],
            [captions[1], pictures[1]],
            [pictures[2], captions[2]],
            [pictures[3], captions[3]],
        ],
    )


@pytest.fixture(scope="module")
def learned_by_heart():
    """A model after 250 steps on one batch, as the loop would weigh it."""
    captions, pictures, samples = one_batch()
    net = model([TEXT, IMAGE], shaken=False, backbone={"dim": 64}, objectives={"image": {"time": "uniform"}}).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=8e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=250)
    batch, noise = pack(samples * 6, [TEXT, IMAGE], 60), generator(0)
    for _ in range(250):
        noisy, targets = net.corrupt(batch, noise)
        masks, found = net.loss_masks(noisy), net.losses(noisy, net(noisy), targets)
        sum((found[n] * masks[n]).sum() / masks[n].sum() for n in found).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return net.eval(), captions, pictures


@torch.no_grad()
def test_a_batch_learned_by_heart_gives_its_captions(learned_by_heart):
    net, captions, pictures = learned_by_heart
    stream = Stream(net, [[p] for p in pictures[2:]], room=8)
    written = Writer(stream, 2, TextSampling(8), Drawing(), Rules()).run()
    assert [[s.values.tolist() for s in spans] for spans in written] == [[c.values.tolist()] for c in captions[2:]]


@torch.no_grad()
def test_a_batch_learned_by_heart_gives_its_latents(learned_by_heart):
    net, captions, pictures = learned_by_heart
    stream = Stream(net, [[c] for c in captions[:2]], room=4, opens=["image"] * 2)
    span = stream.open("image", [(2, 2)] * 2, torch.ones(2, dtype=torch.bool))
    drawing = Drawing(net.objectives["image"].scheduler(), 30, grids={"image": (2, 2)})
    drawn = draw(span, drawing, torch.randn(2, 4, 4, generator=generator(5)))
    for got, want in zip(drawn, pictures):
        assert F.mse_loss(got, want.values) < 0.03 * want.values.var()


def test_pickled_weights_are_refused_with_how_to_convert_them(tmp_path):
    """And not read: what a pickle says is not run."""
    model().save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch run'\ntR.")
    with pytest.raises(
        InputError, match=r"model\.bin: weights in pickle form are not read.*weights_only=True"
    ) as error:
        MultimodalModel.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_what_a_model_cannot_read_is_said_in_a_line():
    net, batch = model(), pack(mixed(2), MODALITIES, 40)
    for call in (net, lambda b: net.supervise(b, {}), net.loss_masks):
        with pytest.raises(InputError, match=r"has no times and noise yet; give what model.corrupt\(batch\) returns"):
            call(batch)
    with pytest.raises(InputError, match="reads a PackedBatch"):
        net(batch.ids)
    for given, says in (
        ([TEXT], "modalities: must be dicts, got Modality; give MultimodalConfig"),
        ([{"name": "text", "vocab": 9}], "'vocab' is no field of a modality; did you mean 'vocab_size'"),
    ):
        with pytest.raises(InputError, match=says):
            MultimodalModel(given, {"kind": "mot", "dim": 8, "layers": 1, "heads": 1})
