"""Which tokens may pass through a layer, a file each; see `parts.Depth`."""
