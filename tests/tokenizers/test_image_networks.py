"""LatentImageTokenizer and VQImageTokenizer around diffusers' own models, whose outputs are the reference."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from tokenizer_examples import dc, kl, pictures, tiny, vq_model

from mot_gen.errors import InputError
from mot_gen.patches import patchify
from mot_gen.tokenizers.image_latent import HALVING, LatentImageTokenizer, _halving_shape, _traced_shape
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.train_image import small_kl

IMAGES = torch.stack(pictures(5, 3, 16, 16))


@pytest.mark.parametrize("make", [kl, tiny, dc])
@torch.no_grad()
def test_tokens_are_patches_of_the_standardised_latents(make):
    vae = make()
    tokenizer = LatentImageTokenizer.from_autoencoder(vae, 16, patch_size=2)
    encoded = vae.encode(IMAGES * 2 - 1)
    z = encoded.latent_dist.mode() if make is kl else encoded[0]
    factor = vae.config.scaling_factor
    expected, grid = patchify(z * factor, 2)
    spans = tokenizer.encode_batch(list(IMAGES))
    assert torch.allclose(torch.stack([s.values for s in spans]), expected, atol=1e-5) and spans[0].grid == grid
    decoded = torch.stack(tokenizer.decode_batch(spans))
    assert torch.allclose(decoded, (vae.decode(z).sample / 2 + 0.5).clamp(0, 1), atol=1e-5)


@torch.no_grad()
def test_the_config_states_shift_and_scale():
    shifted = LatentImageTokenizer.from_autoencoder(kl(shift_factor=0.3, scaling_factor=0.5))
    assert shifted.config.shift == [0.3] * 4 and shifted.config.scale == [0.5] * 4
    means, deviations = [0.0, 0.1, 0.2, 0.3], [1.0, 2.0, 4.0, 0.5]
    each = LatentImageTokenizer.from_autoencoder(kl(latents_mean=means, latents_std=deviations, scaling_factor=1.0))
    assert each.config.shift == means and each.config.scale == [1.0, 0.5, 0.25, 2.0]
    raw = torch.stack(
        [s.values for s in LatentImageTokenizer.from_autoencoder(kl(scaling_factor=1.0)).encode_batch(IMAGES)]
    )
    values = torch.stack([s.values for s in each.encode_batch(list(IMAGES))])
    assert torch.allclose(values, (raw - torch.tensor(means)) / torch.tensor(deviations), atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 5, 16])
def test_measured_latents_have_mean_zero_and_variance_one(batch_size, tmp_path):
    tokenizer = LatentImageTokenizer.from_autoencoder(kl(), 16)
    before = tokenizer.decode(tokenizer.encode(IMAGES[0]))
    tokenizer.measure(list(IMAGES), batch_size)
    values = torch.cat([s.values for s in tokenizer.encode_batch(list(IMAGES))])
    assert values.mean(0).abs().max() < 1e-5 and (values.var(0, unbiased=False) - 1).abs().max() < 1e-4
    assert torch.allclose(tokenizer.decode(tokenizer.encode(IMAGES[0])), before, atol=1e-5)
    tokenizer.save_pretrained(tmp_path)
    assert LatentImageTokenizer.from_pretrained(tmp_path).config.shift == tokenizer.config.shift


def test_a_latent_that_does_not_vary_cannot_be_measured():
    tokenizer = LatentImageTokenizer.from_autoencoder(kl(), 16)
    torch.nn.init.zeros_(tokenizer.vae.quant_conv.weight)
    with pytest.raises(InputError, match="does not vary"):
        tokenizer.measure(list(IMAGES))
    with pytest.raises(InputError, match="at least one image"):
        tokenizer.measure([])


@pytest.mark.parametrize("make", [kl, tiny, dc])
def test_an_autoencoder_folder_is_enough(make, tmp_path):
    vae = make()
    vae.save_pretrained(tmp_path / "vae")
    direct = LatentImageTokenizer.from_autoencoder(vae, 16, 2)
    assert LatentImageTokenizer.from_pretrained(tmp_path / "vae", 16, 2).fingerprint == direct.fingerprint
    assert LatentImageTokenizer.from_pretrained(tmp_path, 16, 2, subfolder="vae").fingerprint == direct.fingerprint


@pytest.mark.parametrize("size", [15, (16, 17)])
@pytest.mark.parametrize("make", [kl, tiny, dc])
def test_a_size_that_the_network_cannot_give_back_is_refused(make, size):
    with pytest.raises(InputError, match="not a multiple"):
        LatentImageTokenizer.from_autoencoder(make(), size)


@pytest.mark.parametrize("vae_class", HALVING)
def test_shapes_that_are_known_are_those_of_the_network(vae_class):
    config = small_kl(16, widths=(8, 16, 8)).config.vae_config
    if vae_class == "AutoencoderKL":
        config = LatentImageTokenizer.from_autoencoder(kl()).config.vae_config
    for size in ((8, 8), (16, 24), (6, 8), (7, 9)):
        assert _halving_shape(vae_class, config, size) == _traced_shape(vae_class, config, size), size


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(InputError, match="patch_size 3 must divide the latents of 8 x 8"):
        LatentImageTokenizer.from_autoencoder(kl(), 16, 3)
    with pytest.raises(InputError, match="give image_size"):
        LatentImageTokenizer.from_autoencoder(tiny())
    with pytest.raises(InputError, match=r"no config\.json"):
        LatentImageTokenizer.from_pretrained(tmp_path)
    PatchImageTokenizer(8).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path.name}: PatchImageTokenizer is no autoencoder"):
        LatentImageTokenizer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="a VQModel is needed"):
        VQImageTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("size", "patch", "channels"), [((8, 9), 2, 3), (8, 0, 3), (0, 1, 3), ((8, 8, 8), 2, 3), (8, 2, 2)]
)
def test_patches_that_do_not_fit_are_refused(size, patch, channels):
    with pytest.raises(InputError, match="must"):
        PatchImageTokenizer(size, patch, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_eight_bit_pixels_come_back_to_the_bit(channels):
    tokenizer = PatchImageTokenizer(16, 4, channels)
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(channels, -1, -1)
    span = tokenizer.encode(image)
    assert span.values.min() == -1 and span.values.max() == 1 and span.values.shape == (16, 16 * channels)
    assert torch.equal((tokenizer.decode(span) * 255).round().to(torch.uint8), image)


@pytest.mark.parametrize(("norm_type", "d"), [("group", 4), ("spatial", 32)])
@torch.no_grad()
def test_a_vq_model_gives_its_own_ids_and_pictures(norm_type, d, tmp_path):
    vq = vq_model(norm_type=norm_type, vq_embed_dim=d)
    vq.save_pretrained(tmp_path)
    tokenizer = VQImageTokenizer.from_pretrained(tmp_path)
    z = vq.encode(IMAGES * 2 - 1).latents
    ids = vq.quantize(z)[2][2].view(len(IMAGES), -1)
    spans = tokenizer.encode_batch(list(IMAGES))
    assert torch.equal(torch.stack([s.values for s in spans]), ids) and spans[0].grid == (8, 8)
    assert len(ids.unique()) > 1
    decoded = torch.stack(tokenizer.decode_batch(spans))
    assert torch.allclose(decoded, (vq.decode(z).sample / 2 + 0.5).clamp(0, 1), atol=1e-5)
    assert tokenizer.modality.vocab_size == 32 and not tokenizer.modality.bidirectional


def test_a_codebook_that_does_not_fit_the_checkpoint_is_refused(tmp_path):
    VQImageTokenizer.from_network(vq_model()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vq_config"]["num_vq_embeddings"] = 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="does not fit") as error:
        VQImageTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda: VQImageTokenizer.from_network(vq_model()), vq_model, kl])
def test_a_truncated_or_missing_weights_file_is_named(make, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    kind = LatentImageTokenizer if "Autoencoder" in type(model).__name__ else VQImageTokenizer
    kept = load_file(weights)
    first = min(kept)
    save_file({name: value for name, value in kept.items() if name != first}, weights)
    with pytest.raises(InputError, match=rf"{tmp_path}: lacks 1 weights of a \w+, such as {first}"):
        kind.from_pretrained(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    for _ in range(2):
        with pytest.raises(InputError, match="does not fit a") as error:
            kind.from_pretrained(tmp_path)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
        weights.unlink(missing_ok=True)


def test_a_vq_size_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="multiple of 2"):
        VQImageTokenizer.from_network(vq_model(), 15)
    with pytest.raises(InputError, match="need as many channels of a latent"):
        VQImageTokenizer(dict(vq_model().config), 16, levels=[5, 5])


class PicturePipeline(DiffusionPipeline):
    """The least pipeline that carries every image tokenizer."""

    def __init__(self, patch: PatchImageTokenizer, latent: LatentImageTokenizer, vq: VQImageTokenizer):
        super().__init__()
        self.register_modules(patch=patch, latent=latent, vq=vq)


def test_a_pipeline_carries_them_all(tmp_path):
    made = PicturePipeline(
        PatchImageTokenizer(16),
        LatentImageTokenizer.from_autoencoder(kl()).measure(list(IMAGES)),
        VQImageTokenizer.from_network(vq_model()),
    )
    made.save_pretrained(tmp_path)
    loaded = PicturePipeline.from_pretrained(tmp_path)
    for name in ("patch", "latent", "vq"):
        ours, theirs = getattr(made, name), getattr(loaded, name)
        assert type(ours) is type(theirs) and ours.fingerprint == theirs.fingerprint
        assert torch.equal(theirs.encode(IMAGES[0]).values, ours.encode(IMAGES[0]).values)
