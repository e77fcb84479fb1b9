"""The engine under every pipeline, by its public names.

`Stream` (stream) and `OpenSpan` (open_span) are documents over one cache; `draw` (drawing) integrates a continuous span
by a `Drawing`; `choose` (decoding) picks a token by a `TextSampling`; `Writer` (writer) continues documents by its
`Rules`.
"""

from mot_gen.pipelines.decoding import StopStrings, TextSampling, choose
from mot_gen.pipelines.drawing import Drawing, Known, draw
from mot_gen.pipelines.guidance import Guidance
from mot_gen.pipelines.open_span import Grid, OpenSpan
from mot_gen.pipelines.stream import Stream
from mot_gen.pipelines.writer import Rules, Writer, slots_of

__all__ = [
    "Drawing",
    "Grid",
    "Guidance",
    "Known",
    "OpenSpan",
    "Rules",
    "StopStrings",
    "Stream",
    "TextSampling",
    "Writer",
    "choose",
    "draw",
    "slots_of",
]
