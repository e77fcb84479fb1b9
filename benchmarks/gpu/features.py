"""FID's features beside torch-fidelity's: equal values from the same random weights, and pictures a second."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.rows import Figures, difference
from benchmarks.gpu.setting import Setting, Skipped
from mot_gen.eval.images.extractors import Extractor
from mot_gen.eval.images.inception import inception_2015, renamed

AGREES = 1e-3  # of the largest feature, in fp32 without TF32
HALF = (128 / 255,) * 3  # what FID's Inception subtracts and divides by, of values in [0, 1]


def features(setting: Setting) -> Figures:
    """Both resize as TensorFlow 1 did. AssertionError where their features differ."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise Skipped("torch-fidelity is not installed; say: pip install torch-fidelity") from error
    state = random_weights()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(state, path)
        theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(path))
    network = inception_2015()
    network.load_state_dict(renamed(state, network, "random weights"))
    ours = Extractor(network, "fid-inception", 299, resize="tf1", mean=HALF, std=HALF).to(setting.device)
    theirs = theirs.to(setting.device).eval()
    return compared(ours, theirs, setting)


def compared(ours: Extractor, theirs: torch.nn.Module, setting: Setting) -> Figures:
    count = setting.pick(64, 1)
    images = torch.randint(256, (count, 3, 64, 64), dtype=torch.uint8, device=setting.device)
    cudnn = torch.backends.cudnn
    with torch.no_grad(), cudnn.flags(enabled=cudnn.enabled, allow_tf32=False):  # TF32 would move their features
        apart = difference(ours(images), theirs(images)[0])
        assert apart < AGREES, f"features differ from torch-fidelity's by {apart} of the largest"
        seconds = setting.alternate({"ours": lambda: ours(images), "torch-fidelity": lambda: theirs(images)})
    rates = {f"pictures a second: {name}": count / took for name, took in seconds.items()}
    return {"difference of features": apart, **rates}


def random_weights() -> dict[str, torch.Tensor]:
    """A state dict as torch-fidelity reads it, of weights that keep values in range through all layers."""
    torch.manual_seed(0)
    wanted = inception_2015(logits=True).state_dict()
    state = {name.replace("pooled.", "branch_pool."): drawn(value) for name, value in wanted.items() if value.ndim}
    return state | {"fc.bias": torch.zeros(1008)}


def drawn(value: torch.Tensor) -> torch.Tensor:
    return torch.randn_like(value) * 0.05 if value.ndim > 1 else torch.rand(value.shape) + 0.5
