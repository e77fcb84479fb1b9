"""The old address of `mot_gen.files.image_files`, which scripts of the first version import."""

from mot_gen.files.image_files import center_crop_resize, image_tensor, load_image, to_pil, to_tensor

__all__ = ["center_crop_resize", "image_tensor", "load_image", "to_pil", "to_tensor"]
