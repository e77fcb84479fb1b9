"""What `mot-gen info` says is what the loaded model is, though nothing is loaded."""

import json

import pytest

from mot_gen.errors import InputError
from mot_gen.flops import count_parameters
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.about import describe
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer

BACKBONES = {
    "mot": {"kind": "mot", "heads": 2, "ffn_dim": 24},
    "hybrid": {"kind": "hybrid", "heads": 2},
    "mom": {"kind": "mom", "bidirectional": "causal"},
    "one tower": {"kind": "mot", "heads": 2, "untied": ["ffn"], "towers": {"both": ["text", "image"]}},
}


def pipeline(backbone):
    text = TextTokenizer.train(["a red apple on a table"], 270)
    images = PatchImageTokenizer([(4, 8), (8, 4)], 2)
    model = MultimodalModel(
        modalities=[vars(text.modality), vars(images.modality)],
        backbone={"dim": 16, "layers": 2, **backbone},
        objectives={"image": {"kind": "shortcut", "fewest": 2}},
        context=64,
    )
    parts = {"text_tokenizer": text, "image_tokenizer": images, "scheduler": model.objectives["image"].scheduler()}
    return TextToImagePipeline(model, **parts, sampling={"guidance_scale": 2.0, "speech_temperature": 1.0})


@pytest.mark.filterwarnings("ignore:this backbone's experts")
@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)
def test_parameters_are_counted_from_the_headers_of_the_weights(backbone, tmp_path):
    pipe = pipeline(backbone)
    pipe.save_pretrained(tmp_path)
    facts, counted = describe(tmp_path), count_parameters(pipe.model)
    assert (facts["active_parameters"], facts["total_parameters"]) == (counted.active, counted.total)
    assert facts["towers"] == ", ".join(pipe.model.backbone.towers)
    assert facts["image_sizes"] == "4 x 8, 8 x 4"
    assert facts["objectives"] == "text: next_token, image: shortcut" and facts["evaluations"] == "image: 2 or more"
    assert facts["sampling"] == {"guidance_scale": 2.0} and facts["context"] == 64
    assert "prompt -> image" in facts["directions"] and "speech" not in facts["directions"]


def test_a_damaged_folder_is_refused_by_its_file(tmp_path):
    pipeline({"kind": "mot", "heads": 2}).save_pretrained(tmp_path)
    config = tmp_path / "model" / "config.json"
    stated = json.loads(config.read_text())
    for changed, words in (
        ({"backbone": {"kind": "mott"}}, "backbone"),
        ({"backbone": {**stated["backbone"], "layers": 10**6}}, "1000000 layers are more than"),
        ({"modalities": None}, "config.json: does not describe a model"),
    ):
        config.write_text(json.dumps(stated | changed))
        with pytest.raises(InputError, match=words):
            describe(tmp_path)
    config.write_text(json.dumps(stated))
    (tmp_path / "model" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="has no safetensors"):
        describe(tmp_path)
