"""Image tokenizers of several sizes: which one a picture is given, and back from its grid."""

import pytest
import torch
from PIL import Image
from tokenizer_examples import kl, vq_model

from mot_gen.errors import InputError
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_base import nearest_size
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.image_vq import VQImageTokenizer

SIZES = [[8, 8], [4, 16], [16, 4]]
MAKE = {
    "patches": lambda: PatchImageTokenizer(SIZES, 2),
    "latents": lambda: LatentImageTokenizer.from_autoencoder(kl(), [[16, 16], [8, 32], [32, 8]], 2),
}


@pytest.fixture(scope="module", params=MAKE)
def tokenizer(request):
    return MAKE[request.param]()


def pictures(tokenizer):
    generator = torch.Generator().manual_seed(0)
    sizes = [*tokenizer.grids, *reversed(tokenizer.grids)]
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def test_the_nearest_size_is_by_aspect_ratio_and_then_by_area():
    sizes = [(8, 8), (4, 16), (16, 4), (32, 32)]
    assert nearest_size(sizes, 100, 400) == (4, 16) and nearest_size(sizes, 400, 90) == (16, 4)
    assert nearest_size(sizes, 9, 9) == (8, 8) and nearest_size(sizes, 500, 450) == (32, 32)
    # Twice as wide is as far from a square as from 1 : 4, where the ratio's logarithm counts.
    assert nearest_size([(8, 8), (4, 16)], 10, 19) == (8, 8) and nearest_size([(8, 8), (4, 16)], 10, 21) == (4, 16)


def test_a_batch_of_several_sizes_is_its_members(tokenizer):
    raws = pictures(tokenizer)
    spans = tokenizer.encode_batch(raws)
    assert [span.grid for span in spans] == [tokenizer.grids[tuple(raw.shape[1:])] for raw in raws]
    for raw, span, decoded in zip(raws, spans, tokenizer.decode_batch(spans)):
        torch.testing.assert_close(tokenizer.encode(raw).values, span.values, atol=1e-5, rtol=0)
        torch.testing.assert_close(tokenizer.decode(span), decoded, atol=1e-5, rtol=0)
        assert decoded.shape == raw.shape
        if isinstance(tokenizer, PatchImageTokenizer):
            torch.testing.assert_close(decoded, raw, atol=1e-6, rtol=0)


def test_any_picture_is_cropped_to_the_size_that_is_nearest(tokenizer):
    square, wide, high = tokenizer.grids
    for size, (width, height) in {square: (50, 40), wide: (90, 20), high: (11, 60)}.items():
        assert tokenizer.encode(Image.new("RGB", (width, height))).grid == tokenizer.grids[size]


def test_the_model_is_told_where_a_row_ends(tokenizer):
    assert tokenizer.modality.position == "grid" and tokenizer.grid is None
    assert PatchImageTokenizer(8, 2).modality.position == "sequence" and PatchImageTokenizer([[8, 8]], 2).grid == (4, 4)


def test_saved_and_loaded_it_has_its_sizes(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = type(tokenizer).from_pretrained(tmp_path)
    assert loaded.grids == tokenizer.grids and loaded.fingerprint == tokenizer.fingerprint


def test_a_span_of_no_size_is_refused():
    with pytest.raises(InputError, match=r"expected 4 x 4 or 2 x 8 or 8 x 2"):
        MAKE["patches"]().decode(Span("image", torch.zeros(16, 12), (1, 16)))


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: PatchImageTokenizer([[8, 8], [8, 8]], 2), "names a size twice: 8 x 8, 8 x 8"),
        (lambda: PatchImageTokenizer([[8, 8], [4, 7]], 2), "patch_size 2 must divide image_size 4 x 7"),
        (lambda: PatchImageTokenizer([[8, 8], [4]], 2), "image_size must be one side"),
        (lambda: LatentImageTokenizer.from_autoencoder(kl(), [[16, 16], [10, 10]], 2), "10 x 10|5 x 5"),
        (lambda: VQImageTokenizer.from_network(vq_model(), [[16, 24], [24, 16]]), "image_size must be one side"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()
