"""How a sublayer's output may join the residual stream, a file each; see `parts.Residual`."""
