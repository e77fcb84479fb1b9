"""Importing diffusers lightly: what waits is not loaded, and everything is there for whoever asks, before or after."""

import subprocess
import sys
from pathlib import Path

from tiny_pipelines import build

from mot_gen.light_diffusers import _Later, _replaced
from mot_gen.pipelines.text_to_image import TextToImagePipeline

ROOT = Path(__file__).resolve().parents[1]
WAITS = (
    "torch._dynamo",
    "sympy",
    "scipy.stats",
    "peft",
    "transformers.modeling_utils",
    "diffusers.models.unets.unet_2d",
)


DRAW = """
import sys
from mot_gen import TextToImagePipeline
def draw(folder):
    pipe = TextToImagePipeline.from_pretrained(folder).to("cpu")
    pipe("seven", num_inference_steps=1).images[0]
for folder in FOLDERS:
    draw(folder)
    assert not set(WAITS) & set(sys.modules), set(WAITS) & set(sys.modules)
assert sys.modules["torch"].compiler.disable.__module__ == "torch.compiler"
"""
THEN = """
import torch, diffusers, transformers, scipy.stats
import diffusers.models.transformers.transformer_2d
assert diffusers.models.transformers.transformer_2d.Transformer2DModel is diffusers.Transformer2DModel
assert diffusers.models.autoencoders.AutoencoderTiny is diffusers.AutoencoderTiny
assert "AutoencoderDC" in dir(diffusers.models.autoencoders)
assert issubclass(diffusers.ClassifierFreeGuidance, diffusers.BaseGuidance)
assert diffusers.hooks.HookRegistry.__module__ == "diffusers.hooks.hooks"
scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True)
scheduler.set_timesteps(4)
from diffusers.pipelines.pipeline_loading_utils import PreTrainedModel
assert issubclass(transformers.GPT2Model, PreTrainedModel) and not issubclass(dict, PreTrainedModel)

# Without attention: torch 2.11 compiles that of this encoder wrongly, however diffusers is imported.
encoder = diffusers.AutoencoderKL(block_out_channels=(32,), mid_block_add_attention=False).encoder
compiled, image = torch.compile(encoder, backend="aot_eager"), torch.randn(1, 3, 8, 8)
assert torch.allclose(compiled(image), encoder(image), atol=1e-5)
from diffusers.utils.torch_utils import is_compiled_module, maybe_allow_in_graph
assert is_compiled_module(compiled) and not is_compiled_module(encoder)
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
class Late: pass
allowed = torch._dynamo.trace_rules._allowed_callable_ids
assert all(id(each) in allowed for each in (Attention, BasicTransformerBlock, maybe_allow_in_graph(Late)))
draw(FOLDERS[0])
"""


def test_drawing_loads_no_compiler_and_diffusers_is_whole_afterwards(tmp_path):
    """Pixels are drawn, then latents; then what others do with diffusers, in the same process."""
    folders = [str(tmp_path / kind) for kind in ("PatchImageTokenizer", "LatentImageTokenizer")]
    for folder in folders:
        TextToImagePipeline(**build(Path(folder).name)).save_pretrained(folder)
    code = f"FOLDERS, WAITS = {folders!r}, {WAITS!r}\n{DRAW}{THEN}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_stands_in_is_taken_back_and_becomes_the_real_thing_when_used():
    names = {"a": 1}
    with _replaced(names, "a", 2), _replaced(names, "b", 3):
        assert names == {"a": 2, "b": 3}
    assert names == {"a": 1}
    assert _Later("math", "sqrt", "math")(4) == 2 and _Later("sys", "float_info", "sys").max > 1
    later = _Later("fractions", "Fraction", "fractions")
    assert isinstance(__import__("fractions").Fraction(1), later) and not issubclass(int, later)
    assert not isinstance(1, _Later("no.such", "Thing", "no.such"))


def test_no_module_goes_around_it():
    """A module that imported diffusers at its top, before this one, would load everything."""
    folders = [ROOT / "mot_gen", ROOT / "tokenizers", ROOT / "pipelines"]
    lines = {path: path.read_text("utf-8").splitlines() for folder in folders for path in folder.rglob("*.py")}
    direct = [path for path, text in lines.items() if any(x.startswith(("import diff", "from diff")) for x in text)]
    assert direct == [ROOT / "mot_gen" / "light_diffusers.py"]
