"""The old address of `mot_gen.eval.images.sources`, which scripts of the first version import."""

from mot_gen.eval.images.sources import ImageSource, load_all, open_images

__all__ = ["ImageSource", "load_all", "open_images"]
