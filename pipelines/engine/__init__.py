"""The engine under every pipeline: documents that are continued over one cache. Its public names stand here.

documents   `stream.Stream`: several documents over one cache. `writer.Writer` continues them token by token;
            `rules.Rules` say what may come next, `scores` keep the rest from being chosen. `text_call`: stop strings
            and streamers. `drafted`: greedy text in fewer passes.
tokens      `decoding`: a token is chosen from logits.
guidance    `guidance.Guidance`: predictions with and without the prompt become one.
pictures    `drawing.draw` turns an open span (`open_span.OpenSpan`) from noise into values, step by step (`samplers`).
            Of discrete tokens: `masked` draws all together, `scales` scale by scale, `blocks` block by block,
            `token_spans` one by one. `whole_spans` draws any of these within a document.
weights     `held_model`: on the disk or in 8 bits, for models that memory does not hold.

The engine knows no pipeline. It imports `mot_gen.pipelines.settings`, which is data, and nothing else of its folder.
"""

from mot_gen.pipelines.engine.decoding import TextSampling, choose
from mot_gen.pipelines.engine.drawing import Drawing, KnownPicture, draw
from mot_gen.pipelines.engine.guidance import Guidance
from mot_gen.pipelines.engine.open_span import Grid, OpenSpan
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.engine.text_call import StopStrings, TextCall
from mot_gen.pipelines.engine.writer import Rules, Writer, slots_of

__all__ = [
    "Drawing",
    "Grid",
    "Guidance",
    "KnownPicture",
    "OpenSpan",
    "Rules",
    "StopStrings",
    "Stream",
    "TextCall",
    "TextSampling",
    "Writer",
    "choose",
    "draw",
    "slots_of",
]
