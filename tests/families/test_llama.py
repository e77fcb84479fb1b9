"""Language models as text towers: logits equal to transformers', every family, frozen to the bit, and back."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.families import llama
from mot_gen.families.language_models import from_language_model, save, to_language_model
from mot_gen.packing import pack
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_patch import PatchImageTokenizer

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 300,
    "eos_token_id": 301,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES = {
    "llama": transformers.LlamaConfig(**SHAPE),
    "llama, tied": transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama 3, scaled": transformers.LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "mistral": transformers.MistralConfig(**SHAPE, sliding_window=None, head_dim=16),
    "qwen2": transformers.Qwen2Config(**SHAPE | {"bos_token_id": None}),
    "qwen3": transformers.Qwen3Config(**SHAPE, head_dim=16),
    "gemma": transformers.GemmaConfig(**SHAPE, head_dim=16),
}


def text_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["a language model of many words"] * 3,
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def saved(config, folder):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms, too, must count
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    return model.eval()


def picture_tokenizer() -> PatchImageTokenizer:
    return PatchImageTokenizer(image_size=(4, 4), patch_size=2, color_channels=1)


@torch.no_grad()
def logits_of(pipeline, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of a text with its document's begin, and the logits of text tokens after each of them."""
    model = pipeline.model.eval()
    batch, _ = model.corrupt(pack([[pipeline.text_tokenizer.encode(text)]], model.modalities, 64))
    hidden = model.backbone(model.embed(batch)[0], batch.layout)[batch.layout.document >= 0]
    first, last = model.vocabulary.range("text")
    ids = batch.ids[batch.layout.document >= 0]
    return ids, model.head(hidden)[:, first:last]


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_logits_are_the_language_models(name, tmp_path):
    source = saved(FAMILIES[name], tmp_path / "lm")
    pipeline = from_language_model(tmp_path / "lm", {"image": picture_tokenizer()})
    ids, logits = logits_of(pipeline, "many words of a model, and more words")
    begin, end = source.config.bos_token_id or source.config.eos_token_id, source.config.eos_token_id
    theirs = torch.tensor([[begin, *ids[1:-1].tolist(), end]])
    want = source(theirs).logits[0, :, : logits.shape[1]]
    torch.testing.assert_close(logits, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_way_back_is_the_language_model(name, tmp_path):
    source = saved(FAMILIES[name], tmp_path / "lm")
    back = to_language_model(from_language_model(tmp_path / "lm", {"image": picture_tokenizer()}), tmp_path / "lm")
    for key, weight in source.state_dict().items():
        assert torch.equal(back.state_dict()[key], weight)


def test_new_towers_begin_as_copies_or_afresh(tmp_path):
    saved(FAMILIES["qwen3"], tmp_path)
    copy = from_language_model(tmp_path, {"image": picture_tokenizer()}).model.backbone.state_dict()
    fresh = from_language_model(tmp_path, {"image": picture_tokenizer()}, "fresh").model.backbone.state_dict()
    for name, weight in copy.items():
        assert torch.equal(weight[0], weight[1]) and torch.equal(weight[0], fresh[name][0])
    assert not torch.equal(fresh["blocks.0.qkv.weight"][0], fresh["blocks.0.qkv.weight"][1])


@torch.no_grad()
def test_an_end_of_text_inside_the_vocabulary_keeps_its_probability(tmp_path):
    """It was two rows of the softmax once, of which only one was ever read: texts ended half as often."""
    llama.tiny(tmp_path)
    source = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    model = from_language_model(tmp_path, {"image": picture_tokenizer()}).model.eval()
    ids = torch.tensor([[0, 40, 50, 60]])
    batch = pack([[Span("text", ids[0, 1:])]], model.modalities, 5)
    batch, targets = model.corrupt(batch)
    assert batch.ids[0].tolist() == [0, 40, 50, 60, 0]
    want = -source(ids).logits.log_softmax(-1)[0, -1, 0]
    losses = model.losses(batch, model(batch), targets)["text"]
    new_rows = model.vocabulary.size - 300  # the image's bounds, which the language model has not
    logits = source(ids).logits[0, -1]
    means = (source.lm_head.weight.mean(0) @ source.model(ids).last_hidden_state[0, -1]).expand(new_rows)
    together = torch.cat([logits, means]).logsumexp(0) - logits.logsumexp(0)
    torch.testing.assert_close(losses[-1], want + together, atol=1e-5, rtol=1e-5)


def test_an_end_of_text_is_never_a_part_of_a_text(tmp_path):
    llama.tiny(tmp_path)
    vocabulary = from_language_model(tmp_path, {"image": picture_tokenizer()}).model.vocabulary
    assert (vocabulary.document_begin, vocabulary.document_end) == (0, 0)
    assert not vocabulary.writable("text")[0]
    assert not vocabulary.writable("text")[257:].any()  # rows that no token has
    assert vocabulary.writable("text")[1:257].all()


def test_greedy_text_is_the_language_models(tmp_path):
    source = saved(FAMILIES["llama"], tmp_path)
    pipeline = from_language_model(tmp_path, {"image": picture_tokenizer()})
    ids = pipeline.text_tokenizer.encode("a model").values.tolist()
    want = source.generate(torch.tensor([[300, *ids]]), max_new_tokens=12, do_sample=False, pad_token_id=301)
    pipe = TextGenerationPipeline(**pipeline.components)
    written = pipe("a model", max_new_tokens=12, do_sample=False).texts[0]
    known = [token for token in want[0, 1 + len(ids) :].tolist() if token < pipeline.text_tokenizer.vocab_size]
    assert written == pipeline.text_tokenizer.decode(known)


def write_pairs(folder):
    from PIL import Image

    folder.mkdir()
    for number in range(6):
        Image.new("L", (4, 4), 40 * number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"grey number {number}")
    return folder


def test_the_command_converts_trains_frozen_and_goes_back(tmp_path, capsys):
    source = saved(FAMILIES["llama"], tmp_path / "lm")
    picture_tokenizer().save_pretrained(tmp_path / "pictures")
    out, run = tmp_path / "mot", tmp_path / "run"
    command = ["convert", str(tmp_path / "lm"), str(out), "--image-tokenizer", str(tmp_path / "pictures")]
    assert main(command) == 0
    assert main(command) == 2 and "is not empty" in capsys.readouterr().err
    overrides = [f"data.records={write_pairs(tmp_path / 'pairs')}", "training.steps=3", "training.rows=1"]
    small = ["training.warmup_steps=0", "training.row_length=48", "evaluation.samples=1"]
    assert main(["train", str(out / "recipe.yaml"), *overrides, *small, "--out", str(run)]) == 0
    before, after = (MultimodalWeights(folder) for folder in (out, run / "model"))
    assert torch.equal(before.text, after.text) and not torch.equal(before.image, after.image)
    assert main(["convert", str(run), str(tmp_path / "back"), "--like", str(tmp_path / "lm")]) == 0
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert all(torch.equal(weight, back.state_dict()[key]) for key, weight in source.state_dict().items())


class MultimodalWeights:
    """All numbers of the text tower with embedding and head, and those of the image tower."""

    def __init__(self, folder):
        from mot_gen.model import MultimodalModel

        model = MultimodalModel.from_pretrained(folder / "model")
        towers = list(model.backbone.parameters())
        own = [model.embedding.weight, model.head.weight]
        self.text = torch.cat([p[0].flatten() for p in towers] + [p.flatten() for p in own])
        self.image = torch.cat([p[1].flatten() for p in towers])


def test_what_cannot_be_converted_is_refused(tmp_path):
    picture = {"image": picture_tokenizer()}
    saved(transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2), tmp_path / "gpt2")
    with pytest.raises(InputError, match="model_type 'gpt2' is not supported"):
        from_language_model(tmp_path / "gpt2", picture)
    model = saved(FAMILIES["llama"], tmp_path / "lm")
    with pytest.raises(InputError, match="start: 'cpy' is not known; did you mean 'copy'"):
        from_language_model(tmp_path / "lm", picture, "cpy")
    with pytest.raises(InputError, match="'video' has no place"):
        from_language_model(tmp_path / "lm", {"video": picture_tokenizer()})
    with pytest.raises(InputError, match="no language model that can be loaded"):
        from_language_model(tmp_path, picture)
    (tmp_path / "lm" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "lm" / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled, and a pickle may execute code"):
        from_language_model(tmp_path / "lm", picture)


def test_another_language_model_is_no_way_back(tmp_path):
    saved(FAMILIES["llama"], tmp_path / "lm")
    saved(FAMILIES["qwen3"], tmp_path / "other")
    pipeline = from_language_model(tmp_path / "lm", {"image": picture_tokenizer()})
    with pytest.raises(InputError, match="head_dim is 16, the model's 8; give what it was made from"):
        to_language_model(pipeline, tmp_path / "other")


def test_a_model_of_another_make_is_no_beginning(tmp_path):
    from mot_gen.recipes.recipe import load_recipe
    from mot_gen.training.build import build_model, build_tokenizers, load_splits

    saved(FAMILIES["llama"], tmp_path / "lm")
    save(from_language_model(tmp_path / "lm", {"image": picture_tokenizer()}), tmp_path / "mot")
    recipe = load_recipe("digits", [f"training.init={tmp_path / 'mot'}"])
    tokenizers = build_tokenizers(recipe, load_splits(recipe))
    with pytest.raises(InputError, match=r"training.init: .* must be those of that model"):
        build_model(recipe, tokenizers)
