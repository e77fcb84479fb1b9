"""docs/pipelines.md runs as it stands, over a tiny model in the folder that it names."""

import re
from pathlib import Path

from PIL import Image

from mot_gen.pipelines.base import MultimodalPipeline

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "pipelines.md"


def test_the_examples_run(pipeline, tmp_path, monkeypatch):
    pipe = pipeline(MultimodalPipeline)
    pipe.register_to_config(sampling={"num_inference_steps": 2, "max_new_tokens": 5})
    pipe.save_pretrained(tmp_path / "runs/digits/model")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (6, 4), "white").save("mask.png")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.S):
        exec(compile(block, DOCUMENT.name, "exec"), names)
    assert len(names["images"]) == 4 and len(list(tmp_path.glob("step-*.png"))) == 3  # Heun's two steps
