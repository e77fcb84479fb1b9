"""The command's fast start: what waits is not loaded, all of it is there for whoever asks; libraries change nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny_pipelines import build

from mot_gen.commands import fast_start
from mot_gen.commands.stand_ins import LazyName, replaced
from mot_gen.pipelines.text_to_image import TextToImagePipeline

ROOT = Path(__file__).resolve().parents[2]
WAITS = (
    "torch._dynamo",
    "sympy",
    "scipy.stats",
    "peft",
    "transformers.modeling_utils",
    "diffusers.models.unets.unet_2d",
    "diffusers.quantizers.auto",
)


DRAW = """
import sys
from mot_gen.commands import fast_start
fast_start.install()
fast_start.install()
assert sum(isinstance(finder, fast_start._Finder) for finder in sys.meta_path) == 1
from mot_gen import TextToImagePipeline
def draw(folder):
    pipe = TextToImagePipeline.from_pretrained(folder).to("cpu")
    pipe("seven", num_inference_steps=1).images[0]
for folder in FOLDERS:
    draw(folder)
    assert not set(WAITS) & set(sys.modules), set(WAITS) & set(sys.modules)
from diffusers.utils import import_utils
assert "_made" not in vars(import_utils._package_map)  # nobody has listed the installed packages
assert "_list_models" in vars(sys.modules["transformers"])  # nobody has listed its models
assert sys.modules["torch"].compiler.disable.__module__ == "torch.compiler"
from mot_gen.eval.accumulator import Accumulator
assert not {"torchmetrics.functional", "torchvision", "scipy.signal", *WAITS} & set(sys.modules)
"""
THEN = """
import torch, diffusers, transformers, scipy.stats, torchmetrics
assert issubclass(transformers.BertConfig, transformers.PretrainedConfig) and not hasattr(transformers, "NoSuchModel")
assert {"BertModel", "AutoModel", "PreTrainedTokenizerFast"} < set(transformers.__all__) < set(dir(transformers))
assert type(transformers) is transformers.utils.import_utils._LazyModule
from diffusers.models.modeling_utils import DiffusersQuantizer
assert issubclass(diffusers.quantizers.auto.BnB4BitDiffusersQuantizer, DiffusersQuantizer)
assert issubclass(Accumulator, torchmetrics.Metric) and torchmetrics.SumMetric()(torch.ones(2)) == 2
import diffusers.models.transformers.transformer_2d
assert diffusers.models.transformers.transformer_2d.Transformer2DModel is diffusers.Transformer2DModel
assert diffusers.models.autoencoders.AutoencoderTiny is diffusers.AutoencoderTiny
assert "AutoencoderDC" in dir(diffusers.models.autoencoders)
assert issubclass(diffusers.ClassifierFreeGuidance, diffusers.BaseGuidance)
from importlib.metadata import packages_distributions
from diffusers.utils.import_utils import _package_map
assert isinstance(packages_distributions(), dict) and dict(_package_map) == packages_distributions()
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


def fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_drawing_loads_no_compiler_and_diffusers_is_whole_afterwards(tmp_path):
    """Pixels are drawn, then latents; then what others do with diffusers, in the same process."""
    folders = [str(tmp_path / kind) for kind in ("PatchImageTokenizer", "LatentImageTokenizer")]
    for folder in folders:
        TextToImagePipeline(**build(Path(folder).name)).save_pretrained(folder)
    fresh(f"FOLDERS, WAITS = {folders!r}, {WAITS!r}\n{DRAW}{THEN}")


def test_what_stands_in_is_taken_back_and_becomes_the_real_thing_when_used():
    names = {"a": 1}
    with replaced(names, "a", 2), replaced(names, "b", 3):
        assert names == {"a": 2, "b": 3}
    assert names == {"a": 1}
    assert LazyName("math", "sqrt", "math")(4) == 2 and LazyName("sys", "float_info", "sys").max > 1
    later = LazyName("fractions", "Fraction", "fractions")
    assert isinstance(__import__("fractions").Fraction(1), later) and not issubclass(int, later)
    assert not isinstance(1, LazyName("no.such", "Thing", "no.such"))


UNCOLLECTED = """
import gc
from mot_gen.commands import fast_start
fast_start.install()
ran = []
gc.callbacks.append(lambda phase, info: ran.append(phase))
import torch
assert not ran and gc.isenabled()
assert gc.get_freeze_count() > 50_000 and len(gc.get_objects()) < 10_000
"""

STAYS_OFF = """
import gc
gc.disable()
from mot_gen.commands import fast_start
fast_start.install()
import torch
assert not gc.isenabled()
"""


def test_torch_is_imported_without_collecting_garbage_which_goes_on_afterwards():
    fresh(UNCOLLECTED)
    fresh(STAYS_OFF)


# What a process is like for those who import diffusers in it, printed as JSON.
LOOK = """
import json, sys
IMPORTS
import diffusers, torch, transformers
from diffusers.models import autoencoders, modeling_utils, transformers as blocks
from diffusers.pipelines import pipeline_loading_utils, pipeline_utils
from diffusers.utils import torch_utils
from transformers import PreTrainedModel
def name(thing):
    return f"{type(thing).__name__} {getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
print(json.dumps({
    "finders": [name(finder) for finder in sys.meta_path],
    "kinds": sorted({name(type(module)) for module in list(sys.modules.values())}),
    "types": {each: name(type(sys.modules.get(each))) for each in WHAT},
    "named": [name(x) for x in (
        pipeline_loading_utils.is_peft_available, torch_utils.is_compiled_module, torch.compiler.disable,
        diffusers.BaseGuidance, PreTrainedModel, diffusers.DiffusionPipeline.from_pretrained.__func__,
    )],
    "checks": [
        issubclass(transformers.GPT2Model, PreTrainedModel), isinstance(PreTrainedModel, type),
        isinstance(diffusers.BaseGuidance, type), issubclass(diffusers.ClassifierFreeGuidance, diffusers.BaseGuidance),
        isinstance(diffusers.AutoencoderKL(block_out_channels=(32,)), diffusers.ModelMixin),
    ],
}))
"""
WHAT = (
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "torch._dynamo",
    "scipy.stats",
)
OURS = (
    "import mot_gen.model, mot_gen.pipelines.text_to_image, mot_gen.pipelines.loaded, mot_gen.tokenizers.image_latent"
)


# Two processes of which torch is all that they share.
TWICE = """
import os, sys, torch
for code in CODES:
    child = os.fork()
    if not child:
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_library_import_changes_nothing_in_the_process():
    """Who imports mot_gen beside diffusers finds its modules, classes and finders as they are without mot_gen."""
    looks = [LOOK.replace("IMPORTS", imports).replace("WHAT", repr(WHAT)) for imports in ("", OURS)]
    alone, beside = map(json.loads, fresh(f"CODES = {looks!r}{TWICE}").splitlines())
    added = set(beside["kinds"]) - set(alone["kinds"])
    assert not {kind for kind in added if kind.startswith("mot_gen")}
    assert {**beside, "kinds": None} == {**alone, "kinds": None}
    assert not any("fast_start" in finder for finder in beside["finders"])


def test_only_the_process_of_the_command_starts_fast():
    """`main([...])`, as a notebook may call it, leaves the process alone; `python -m mot_gen` does not."""
    code = """
import sys
from mot_gen.commands.main import main
main(ARGV)
print(any('fast_start' in type(finder).__module__ for finder in sys.meta_path))
"""
    refused = "['generate', 'no/such', '--to', 'text', '--prompt', 'a']"
    assert fresh(code.replace("ARGV", refused)).endswith("False\n")
    assert fresh(f"import sys; sys.argv[1:] = {refused}{code.replace('ARGV', '')}").endswith("True\n")
    assert fast_start._Finder not in map(type, sys.meta_path)
