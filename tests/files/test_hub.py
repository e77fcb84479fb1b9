"""What `from_pretrained` is given: no folder or name is refused in a line by every class, without asking the hub."""

from pathlib import Path

import pytest

from mot_gen.errors import InputError
from mot_gen.files.hub import folder_or_name
from mot_gen.model import MultimodalModel
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_patch import PatchImageTokenizer
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.text import TextTokenizer

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
