"""Measuring what models make: `evaluate_images`, `evaluate_text`, `evaluate_speech`, and every metric behind them.

    from mot_gen.eval import evaluate_images
    results = evaluate_images("real/", "fake/", metrics=["fd", "kd"])      # paths, arrays or tensors
    print(results["fd"].value, results["fd"].signature)

`evaluate_image_text` and `evaluate_detections` measure how well images show what their texts say. Each returns
`Results`, a dictionary of `MetricResult` by name. Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mot_gen.eval.images.evaluate import evaluate_images, reference_statistics
    from mot_gen.eval.images.evaluate_texts import evaluate_detections, evaluate_image_text
    from mot_gen.eval.images.settings import ImageSettings
    from mot_gen.eval.result import MetricResult, Results
    from mot_gen.eval.speech.evaluate import evaluate_speech
    from mot_gen.eval.text.evaluate import evaluate_text

_MODULES = {
    "evaluate_images": "images.evaluate",
    "reference_statistics": "images.evaluate",
    "ImageSettings": "images.settings",
    "evaluate_image_text": "images.evaluate_texts",
    "evaluate_detections": "images.evaluate_texts",
    "evaluate_text": "text.evaluate",
    "evaluate_speech": "speech.evaluate",
    "MetricResult": "result",
    "Results": "result",
}

__all__ = [
    "ImageSettings",
    "MetricResult",
    "Results",
    "evaluate_detections",
    "evaluate_image_text",
    "evaluate_images",
    "evaluate_speech",
    "evaluate_text",
    "reference_statistics",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mot_gen.eval.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
