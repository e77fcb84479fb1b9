"""Measures of whole sets beside distances: Vendi score, memorisation, and FD-DINOv2's pinned recipe."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from mot_gen.errors import InputError
from mot_gen.eval import evaluate_images
from mot_gen.eval.images import dinov2 as dinov2_module
from mot_gen.eval.images.dinov2 import dinov2
from mot_gen.eval.images.memorization import Memorization, average_ranks, data_copying
from mot_gen.eval.images.vendi import VendiScore, vendi_score


def randn(n, d, seed, scale=1.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (12, 12)])
def test_vendi_score_is_its_authors(shape):
    reference = pytest.importorskip("vendi_score.vendi")
    features = randn(*shape, 0) + 0.5
    assert vendi_score(features) == pytest.approx(reference.score_dual(features.numpy()), rel=1e-9)


def test_vendi_score_counts_what_differs():
    assert vendi_score(torch.eye(5).repeat(3, 1)) == pytest.approx(5)
    assert vendi_score(torch.ones(6, 4)) == pytest.approx(1)
    metric = VendiScore()
    metric.update(torch.eye(4), real=False)
    metric.update(torch.ones(3, 4), real=True)
    result = metric.compute()
    assert result.value == pytest.approx(4) and result.details["real"] == pytest.approx(1)


def test_ranks_and_z_are_scipys():
    values = torch.tensor([3.0, 1.0, 3.0, 2.0, 1.0, 1.0])
    assert average_ranks(values).tolist() == scipy.stats.rankdata(values.numpy()).tolist()
    train, held_out, fake = randn(60, 3, 0), randn(50, 3, 1), randn(40, 3, 2, 1.1)
    made, real = (torch.cdist(side, train).amin(1).numpy() for side in (fake, held_out))
    u = scipy.stats.mannwhitneyu(made, real).statistic
    expected = (u - 40 * 50 / 2) / math.sqrt(40 * 50 * 91 / 12)
    assert data_copying(train, held_out, fake) == pytest.approx(expected)


def test_copies_are_found_and_new_samples_are_not():
    train, held_out = randn(400, 6, 0), randn(300, 6, 1)
    copies, fresh = train[:200] + randn(200, 6, 3, 1e-3), randn(200, 6, 2)
    copied, new = (fed(Memorization(), train, held_out, fake) for fake in (copies, fresh))
    assert copied["authenticity"].value < 0.02 and copied["data_copying"].value < -10
    assert 0.3 < new["authenticity"].value < 0.8 and abs(new["data_copying"].value) < 3
    assert new["data_copying"].n == {"real": 400, "fake": 200, "held_out": 300}


def fed(metric, train, held_out, fake):
    metric.update(train, real=True)
    metric.update(held_out, real=True, held_out=True)
    metric.update(fake, real=False)
    return metric.compute()


def test_authenticity_by_its_definition_with_exact_copies():
    train, fake = randn(50, 4, 0), torch.cat([randn(30, 4, 0), randn(20, 4, 1)])
    across = torch.cdist(fake, train)
    own = torch.cdist(train, train).fill_diagonal_(math.inf).amin(1)
    expected = (across.amin(1) > own[across.argmin(1)]).double().mean().item()
    found = evaluate_images(train, fake, "memorization", held_out=randn(40, 4, 5))
    assert found["authenticity"].value == pytest.approx(expected) and "data_copying" in found


@pytest.fixture
def tiny_dinov2(tmp_path, monkeypatch):
    """A random DINOv2 as small as its recipe allows, and the recipe told to take it."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "patch_size": 14}
    monkeypatch.setattr(dinov2_module, "SHAPE", shape)
    model = Dinov2Model(Dinov2Config(**shape, num_attention_heads=4, image_size=518)).eval()
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_dinov2_is_fed_as_its_distance_is_defined(tiny_dinov2):
    folder, model = tiny_dinov2
    image = torch.randint(0, 256, (1, 3, 50, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    planes = [Image.fromarray(plane.astype(np.float32)).resize((224, 224), Image.BICUBIC) for plane in image[0].numpy()]
    levels = torch.from_numpy(np.stack(planes)).clamp(0, 255) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (levels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        expected = model(pixel_values=pixels[None]).last_hidden_state[:, 0]
    assert torch.allclose(dinov2(weights=folder)(image), expected, atol=1e-3)
    pictures = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8)
    results = evaluate_images(pictures[:3], pictures[3:], "fd,kd", extractor="dinov2", weights=folder)
    assert [result.name for result in results.values()] == ["FD-DINOv2", "KD-DINOv2"]
    assert "resize:clean-224" in results["fd"].signature


def test_another_dinov2_or_recipe_is_refused(tiny_dinov2, tmp_path, monkeypatch):
    folder, _ = tiny_dinov2
    with pytest.raises(InputError, match="pinned to clean and float32"):
        dinov2(weights=folder, resize="antialias")
    with pytest.raises(InputError, match="facebook/dinov2-large"):
        dinov2()
    monkeypatch.setattr(dinov2_module, "SHAPE", {"hidden_size": 1024})
    with pytest.raises(InputError, match=r"hidden_size is 32, that of ViT-L/14 is 1024"):
        dinov2(weights=folder)
    CLIPVisionModel(CLIPVisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4)).save_pretrained(
        tmp_path / "clip"
    )
    with pytest.raises(InputError, match="holds a clip_vision_model"):
        dinov2(weights=tmp_path / "clip")
