"""The examples of docs/pipelines.md run over tiny models in the folders they name, each after the first one alone."""

import re
from pathlib import Path

from PIL import Image

from mot_gen.growth.base import rebuilt
from mot_gen.pipelines.base import MultimodalPipeline

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "pipelines.md"


def test_the_examples_of_the_docs_run(pipeline, tmp_path, monkeypatch):
    pipe = pipeline(MultimodalPipeline)
    pipe.register_to_config(sampling={"num_inference_steps": 2, "max_new_tokens": 5})
    pipe.save_pretrained(tmp_path / "runs/digits/model")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (6, 4), "white").save("mask.png")
    nested = rebuilt(pipe.model, feed_forward="nested", ffn_dim=128)
    MultimodalPipeline(**pipe.components | {"model": nested}).save_pretrained("runs/nested/model")
    first, *others = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.S)
    names: dict = {}
    exec(compile(first, DOCUMENT.name, "exec"), names)
    for block in others:
        exec(compile(block, DOCUMENT.name, "exec"), dict(names))
    assert len(names["images"]) == 4 and len(list(tmp_path.glob("step-*.png"))) == 3  # Heun's two steps
