"""Models whose weights are on the disk, or in 8 bits, while they generate."""

import pytest
import torch
from tiny import MODALITIES, clean, mixed, model

from mot_gen.backbone.storage.byte_storage import ByteMatrix
from mot_gen.backbone.storage.half_storage import HalfStorage
from mot_gen.backbone.width_and_experts import choose, chosen
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.packing import pack
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BAGEL, which reads, writes and draws."""
    from mot_gen.families import bagel

    place = tmp_path_factory.mktemp("held")
    bagel.tiny(place / "published")
    assert main(["convert", str(place / "published"), str(place / "ours")]) == 0
    return place / "ours"


def loaded(cls, folder, **options):
    pipe = cls.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe):
    noise = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    size = {"height": 8, "width": 8, "num_inference_steps": 3}
    return pipe("a boat", latents=noise, output_type="latent", **size).images


def layers_in_memory(pipe):
    return sum(not next(block.parameters()).is_meta for block in pipe.model.backbone.blocks)


def test_layers_on_the_disk_draw_the_same_picture_to_the_bit(folder):
    pipe = loaded(TextToImagePipeline, folder, weights="disk")
    assert layers_in_memory(pipe) == 0
    assert torch.equal(drawn(pipe), drawn(loaded(TextToImagePipeline, folder)))
    assert layers_in_memory(pipe) == 1  # and one more that a thread has read


def test_layers_on_the_disk_write_the_same_text(folder):
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    texts = [
        loaded(ImageToTextPipeline, folder, **options)(picture, "what?", max_new_tokens=5).texts
        for options in ({}, {"weights": "disk"})
    ]
    assert texts[0] == texts[1]


def test_weights_in_8_bits_draw_nearly_the_same(folder):
    pipe = loaded(TextToImagePipeline, folder, weights="int8")
    want = drawn(loaded(TextToImagePipeline, folder))
    apart = (drawn(pipe) - want).abs().max() / want.abs().max()
    assert 0 < apart < 0.1
    held = pipe.model.head.halves[0]
    assert pipe.model.head.weight.is_meta and held.values.dtype == torch.int8


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_product_in_8_bits_is_that_of_the_rounded_matrix(tokens):
    weight = torch.randn(300, 17, generator=torch.Generator().manual_seed(0))
    matrix, x = ByteMatrix(weight), torch.randn(tokens, 17)
    torch.testing.assert_close(matrix(x), x @ matrix.whole().t(), rtol=1e-5, atol=1e-5)
    steps = weight.abs().amax(1, keepdim=True) / 127
    assert ((matrix.whole() - weight).abs() <= steps / 2 * 1.001).all()


def test_fewer_bits_are_the_top_ones_of_eight():
    """Of 8 the matrix itself; of fewer, each number becomes the middle of those that share its top bits."""
    weight = torch.randn(300, 17, generator=torch.Generator().manual_seed(0))
    matrix, x = ByteMatrix(weight), torch.randn(5, 17)
    steps, errors = weight.abs().amax(1, keepdim=True) / 127, []
    for bits in (8, 6, 4, 1):
        matrix.bits = bits
        found = (matrix.whole() - weight).abs()
        assert (found <= steps / 2 * 2 ** (8 - bits) * 1.001).all()
        torch.testing.assert_close(matrix(x), x @ matrix.whole().t(), rtol=1e-5, atol=1e-5)
        errors.append(found.mean())
        assert len(matrix.whole()[0].div(steps[0]).round(decimals=2).unique()) <= 2**bits
    assert errors == sorted(errors)


def test_experts_in_8_bits_are_used_by_as_many_as_are_chosen():
    """Of each expert its own number; afterwards as before; and 8 are what they were."""
    built = model(backbone={"experts": 2, "router": "token_choice"})
    for layer in built.backbone.modules():
        if isinstance(layer, HalfStorage):
            layer.halves = [ByteMatrix(matrix) for matrix in layer.weight.view(-1, *layer.weight.shape[-2:])]
    batch = clean(pack(mixed(4), MODALITIES, 48), 0.5)

    @torch.no_grad()
    def logits(**options):
        with chosen(built.backbone, **options):
            return built(batch).logits

    want = logits()
    assert torch.equal(logits(bits=8), want)
    apart = [(logits(bits=bits) - want).abs().mean() for bits in (6, 4, [4, 8] * 3)]
    assert 0 < apart[0] < apart[1] and 0 < apart[2] < apart[1]
    assert torch.equal(logits(), want)
    with pytest.raises(InputError, match=r"bits: must be from 1 to 8, one or 6 numbers, an expert each, got \[4, 4\]"):
        logits(bits=[4, 4])
    with pytest.raises(InputError, match="bits: experts must be held in 8 bits"):
        choose(model().backbone, bits=4)


def test_what_such_a_model_cannot_do_is_one_line(folder, tmp_path, capsys):
    pipe = loaded(TextToImagePipeline, folder, weights="disk")
    with pytest.raises(InputError, match=r"save_pretrained: the weights are not in memory"):
        pipe.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="weights: 'dsk' is not known; did you mean 'disk'"):
        loaded(TextToImagePipeline, folder, weights="dsk")
    with pytest.raises(InputError, match="what is computed is fp32"):
        loaded(TextToImagePipeline, folder, weights="int8", dtype=torch.bfloat16)
    assert main(["generate", str(folder), "--to", "text", "--prompt", "a", "--weights", "int8", "--dtype", "fp16"]) == 2
    assert "--weights int8: does not go with --dtype fp16; take fp32" in capsys.readouterr().err
    assert main(["generate", str(folder), "--to", "text", "--prompt", "a", "--weights", "disk",
                 "--max-new-tokens", "3"]) == 0  # fmt: skip
