"""Hub names are taken where they were fetched before, and nothing else that is not there. What `from_pretrained` is
given: what names nothing is refused in a line by every class, without asking the hub."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from mot_gen.errors import InputError
from mot_gen.files.hub import folder_or_name, require_local, was_fetched
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    (tmp_path / "models--owner--fetched").mkdir()
    (tmp_path / "models--alone").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", ["owner/fetched", "alone", "."])
def test_what_is_there_or_was_fetched_is_taken(name):
    assert Path(name).exists() or was_fetched(name)
    require_local("path", name)  # raises nothing


@pytest.mark.parametrize("name", ["owner/mistyped", "mistyped", "owner/fetched2"])
def test_a_hub_name_that_was_not_fetched_says_how_to(name):
    with pytest.raises(InputError, match=f"^path: {name}: no such folder, .* hf download {name}$"):
        require_local("path", name)


@pytest.mark.parametrize("name", ["/no/such", "a/b/c", "./mistyped"])
def test_a_path_that_is_no_hub_name_is_not_looked_for_there(name):
    with pytest.raises(InputError, match="no such folder; give that of a saved one"):
        require_local("path", name)


CLASSES = (
    MultimodalModel,
    TextToImagePipeline,
    LatentImageTokenizer,
    PatchImageTokenizer,
    VQImageTokenizer,
    TextTokenizer,
)


@pytest.mark.parametrize("cls", CLASSES)
def test_what_names_nothing_is_refused(cls):
    for given in (None, 3, "", [], b"runs/mine"):
        with pytest.raises(InputError, match="from_pretrained: give a folder, or the name of a model, got"):
            cls.from_pretrained(given)
    for given in ("runs/no/such/folder", Path("no.such/deep/path"), "a\x00b"):
        with pytest.raises(InputError, match="no such folder"):
            cls.from_pretrained(given)


def test_folders_that_are_there_and_names_are_taken(tmp_path):
    for given in (tmp_path, str(tmp_path), "someone/something", "gpt2"):
        assert folder_or_name(given) == given


def test_parts_of_a_shipped_model_are_known_by_its_name():
    tokenizer = LatentImageTokenizer.from_pretrained("openmoji/image_tokenizer")
    assert tokenizer.size == (32, 32) and TextTokenizer.from_pretrained("openmoji/text_tokenizer").vocab_size == 2048
