"""SIZES: the named sizes of the Mixture-of-Transformers paper (arXiv 2411.04996), by activated parameters."""

SIZES = {
    "37M": {"dim": 256, "layers": 4, "heads": 8},
    "94M": {"dim": 512, "layers": 8, "heads": 8},
    "163M": {"dim": 768, "layers": 16, "heads": 12},
    "443M": {"dim": 1024, "layers": 24, "heads": 16},
    "760M": {"dim": 1536, "layers": 24, "heads": 24},
    "880M": {"dim": 1536, "layers": 24, "heads": 24},
    "1.4B": {"dim": 2048, "layers": 24, "heads": 16},
    "1.5B": {"dim": 2048, "layers": 24, "heads": 16},
    "7B": {"dim": 4096, "layers": 32, "heads": 32},
}
