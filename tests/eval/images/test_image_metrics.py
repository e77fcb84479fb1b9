"""Images: the input contract, resize modes, extractors, and every image metric against references and closed forms."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from mot_gen.errors import InputError
from mot_gen.eval.images.extractors import Extractor, load_extractor
from mot_gen.eval.images.feature_sets import canonical
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.images.frechet_infinity import FrechetInfinity
from mot_gen.eval.images.image_pairs import LPIPS, PSNR, SSIM
from mot_gen.eval.images.inception import ADDRESS, SHA256, inception_2015, renamed
from mot_gen.eval.images.inception_score import InceptionScore
from mot_gen.eval.images.inputs import check_images, resize, to_uint8
from mot_gen.eval.images.kernel import KernelDistance, squared_mmd
from mot_gen.eval.images.precision_recall import PrecisionRecall


def randn(n, d, seed, scale=1.0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift


def both(metric, real, fake):
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


def test_floats_are_rounded_never_truncated():
    values = torch.tensor([0.0, 0.5, 1.0, 0.999, 1 / 255, 254.6 / 255]).view(1, 1, 1, 6)
    assert to_uint8(values).flatten().tolist() == [0, 128, 255, 255, 1, 255]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (torch.full((1, 3, 4, 4), math.nan), "NaN"),
        (torch.full((1, 3, 4, 4), 1.004), "rescale them or pass clamp=True"),
        (torch.full((1, 3, 4, 4), -0.01), "must lie in"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), "int64"),
        (torch.zeros(3, 4, 4), "shape"),
        (torch.zeros(1, 4, 4, 4), "shape"),
    ],
)
def test_images_that_break_the_contract(bad, says):
    with pytest.raises(InputError, match=says):
        check_images(bad)


def test_clamp_mends_a_range_but_not_nan():
    assert check_images(torch.full((1, 3, 2, 2), 1.004), clamp=True).max() == 1
    with pytest.raises(InputError, match="NaN"):
        check_images(torch.full((1, 3, 2, 2), math.nan), clamp=True)


def photo():
    return torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)[None]


@pytest.mark.parametrize("size", [(37, 53), (300, 900)])
def test_clean_resize_is_pils_bicubic_in_float(size):
    found = resize(photo(), size, "clean")[0].numpy()
    for channel, plane in zip(photo()[0].numpy(), found):
        image = Image.fromarray(channel.astype(np.float32), mode="F").resize(size[::-1], Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(image) - plane).max() < 0.02


def test_tf1_resize_samples_at_i_times_old_over_new():
    ramp = torch.arange(8.0).view(1, 1, 1, 8)
    assert resize(ramp, (1, 16), "tf1").flatten().tolist() == [min(i / 2, 7) for i in range(16)]
    assert resize(ramp, (1, 4), "tf1").flatten().tolist() == [0, 2, 4, 6]


def test_antialias_keeps_the_mean():
    assert resize(photo(), 20, "antialias").mean().item() == pytest.approx(photo().float().mean().item(), rel=0.01)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(InputError, match="did you mean 'clean'"):
        resize(photo(), 8, "cleen")
    with pytest.raises(InputError, match="did you mean 'fid-inception'"):
        load_extractor("fid-incepton")


def test_offline_extractor_knows_a_palace_and_a_daisy():
    classify = load_extractor("efficientnet-lite0", output="logits")
    squares = [image[:, 106:533].copy() for image in load_sample_images().images]
    found = [classify(torch.from_numpy(image).permute(2, 0, 1)[None]) for image in squares]
    assert [logits.argmax().item() for logits in found] == [698, 985]


def test_offline_extractor_end_to_end():
    pictures = torch.cat([photo()[:, :, i : i + 200, 2 * i : 2 * i + 200] for i in range(0, 160, 20)])
    result = both(KernelDistance("efficientnet-lite0"), pictures, (pictures.float() / 255).flip(2))
    assert result.name == "KD[efficientnet-lite0]" and result.value > 0
    for fact in ("extractor:efficientnet-lite0", "resize:antialias-224", "dtype:float32", "sha256:57934424"):
        assert fact in result.signature


class Mean(nn.Module):
    def forward(self, x):
        return x


def test_any_module_is_an_extractor_and_grey_becomes_rgb():
    extractor = load_extractor(Mean())
    grey = torch.rand(5, 1, 8, 8)
    assert torch.allclose(extractor(grey), (grey * 255).round().mean((2, 3)).expand(-1, 3) / 255, atol=1e-6)
    assert extractor.provenance()["extractor"] == "Mean"


def test_extractor_stays_in_eval_mode():
    extractor = Extractor(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()), "bn")
    metric = FrechetDistance(extractor)
    metric.train()
    assert not extractor.network[0].training


def test_weights_change_the_recorded_hash():
    one, two = (Extractor(nn.Conv2d(3, 2, 1), "conv").sha256 for _ in range(2))
    assert one != two


def test_missing_inception_weights_name_address_hash_and_flag():
    with pytest.raises(InputError) as caught:
        load_extractor("fid-inception")
    assert ADDRESS in str(caught.value) and SHA256 in str(caught.value) and "--weights" in str(caught.value)


def test_wrong_inception_weights_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({}, path)
    with pytest.raises(InputError, match="is not the expected 6726825d"):
        load_extractor("fid-inception", weights=path)


def test_inception_is_torch_fidelitys_network(tmp_path):
    reference_module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    ours = inception_2015(logits=True).eval()
    state = {
        key.replace("pooled.", "branch_pool."): torch.randn_like(value) * 0.05
        if value.ndim > 1
        else torch.rand(value.shape) + 0.5
        for key, value in ours.state_dict().items()
        if value.ndim
    }
    state["fc.bias"] = torch.zeros(1008)
    torch.save(state, tmp_path / "weights.pth")
    reference = reference_module.FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(tmp_path / "weights.pth")
    )
    ours.load_state_dict(renamed(state, ours, "x"))
    images = torch.randint(0, 256, (2, 3, 70, 90), dtype=torch.uint8)
    half = (128 / 255,) * 3
    features, logits = reference(images)
    found = Extractor(ours, "fid-inception", 299, resize="tf1", mean=half, std=half)
    assert torch.allclose(found(images), logits, rtol=1e-4, atol=1e-3)
    ours.fc = nn.Identity()
    assert torch.allclose(found(images), features, rtol=1e-4, atol=1e-4)


def quadratic_mmd(real, fake):
    """KID by its definition, term by term."""
    d = real.shape[1]
    k = lambda a, b: (a @ b.mT / d + 1) ** 3  # noqa: E731
    within = lambda x: (k(x, x).sum() - k(x, x).diagonal().sum()) / (len(x) * (len(x) - 1))  # noqa: E731
    return (within(real) + within(fake) - 2 * k(real, fake).mean()).item()


@pytest.mark.parametrize("sizes", [(40, 50), (50, 40), (2, 31)])
def test_kernel_distance_of_unequal_sets(sizes):
    real, fake = randn(sizes[0], 6, 0), randn(sizes[1], 6, 1, 1.2, 0.1)
    found = both(KernelDistance(), real, fake)
    assert found.value == pytest.approx(quadratic_mmd(real, fake), rel=1e-10)


def test_kernel_distance_is_unbiased():
    estimates = [squared_mmd(randn(30, 4, seed), randn(20, 4, seed + 500)) for seed in range(300)]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / math.sqrt(300)


def test_kernel_subsets_agree_with_all_pairs():
    real, fake = randn(500, 5, 0), randn(400, 5, 1, 1.3)
    whole = both(KernelDistance(subset_size=500), real, fake).value
    drawn = both(KernelDistance(subset_size=100, subsets=80, confidence=0.99), real, fake)
    assert drawn.interval[0] < whole < drawn.interval[1]
    assert "subsets:80" in drawn.signature and "seed:0" in drawn.signature


def test_cmmd_by_its_definition():
    real, fake = randn(30, 8, 0), randn(25, 8, 1, shift=0.5)
    x, y = (nn.functional.normalize(side, dim=1) for side in (real, fake))
    k = lambda a, b: torch.exp(-torch.cdist(a, b).square() / 200).mean()  # noqa: E731
    expected = 1000 * (k(x, x) + k(y, y) - 2 * k(x, y)).item()
    assert both(KernelDistance(kernel="gaussian"), real, fake).value == pytest.approx(expected, rel=1e-8)


def test_inception_score_closed_forms():
    certain = torch.eye(6).repeat(20, 1) * 1e4
    metric = InceptionScore(splits=1)
    metric.update(certain)
    assert metric.compute().value == pytest.approx(6)
    metric.reset()
    metric.update(torch.zeros(50, 6))
    assert metric.compute().value == pytest.approx(1)


def brute_force_manifold(real, fake, k_pr, k_dc):
    def radius(x, k):
        return torch.cdist(x, x).sort(1).values[:, k]

    across = torch.cdist(fake, real)
    return {
        "precision": (across <= radius(real, k_pr)).any(1).double().mean().item(),
        "recall": (across.mT <= radius(fake, k_pr)).any(1).double().mean().item(),
        "density": (across <= radius(real, k_dc)).double().sum(1).mean().item() / k_dc,
        "coverage": (across <= radius(real, k_dc)).any(0).double().mean().item(),
    }


def test_precision_recall_against_brute_force():
    real, fake = randn(300, 5, 0), randn(250, 5, 1, 0.8, 0.5)
    found = both(PrecisionRecall(), real, fake)
    expected = brute_force_manifold(real, fake, 3, 5)
    assert {name: one.value for name, one in found.items()} == pytest.approx(expected, abs=1e-12)


def test_precision_of_a_mode_collapse_and_of_an_outlier():
    real = randn(200, 4, 0)
    collapsed = real[:1] + randn(200, 4, 1, 1e-3)
    found = both(PrecisionRecall(), real, collapsed)
    assert found["precision"].value == 1 and found["recall"].value < 0.05 and found["coverage"].value < 0.1


def test_frechet_infinity_removes_the_bias():
    real = randn(20_000, 6, 0)
    found = [both(FrechetInfinity(), real, randn(300, 6, seed)) for seed in range(1, 13)]
    bias, left = (np.mean(column) for column in zip(*((one.details["distance_at_n"], one.value) for one in found)))
    assert bias > 0.03 and abs(left) < bias / 3


def test_canonical_order_forgets_the_given_one():
    rows = randn(50, 3, 0)
    assert torch.equal(canonical(rows), canonical(rows[torch.randperm(50)]))


def pair(metric, one, two):
    metric.update(one, two)
    return metric.compute()


def test_psnr_closed_form_and_identical_images():
    one = torch.rand(2, 3, 16, 16, dtype=torch.float64) * 0.8
    assert pair(PSNR(), one, one + 0.1).value == pytest.approx(20)
    found = pair(PSNR(), one, one)
    assert math.isinf(found.value) and found.to_dict()["value"] is None and "identical" in found.warnings[0]
    assert pair(PSNR(), (one * 255).round().byte(), (one * 255).round() / 255).value > 150


def test_ssim_against_scipy():
    g = torch.Generator().manual_seed(0)
    one = torch.rand(1, 1, 30, 34, generator=g, dtype=torch.float64)
    two = (one + 0.2 * torch.rand(one.shape, generator=g, dtype=torch.float64)).clamp(max=1)

    def blur(x):
        return scipy.ndimage.gaussian_filter(x, 1.5, truncate=3.5)

    x, y = one[0, 0].numpy(), two[0, 0].numpy()
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    ssim = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert pair(SSIM(), one, two).value == pytest.approx(ssim[5:-5, 5:-5].mean(), rel=1e-9)
    assert pair(SSIM(), one, one).value == pytest.approx(1)


def test_pairs_of_other_shapes_and_missing_lpips_weights():
    with pytest.raises(InputError, match="differ"):
        PSNR().update(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
    with pytest.raises(InputError, match="at least 11 pixels"):
        SSIM().update(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    with pytest.raises(InputError, match="alexnet-owt-7be5be79"):
        LPIPS("alex")
