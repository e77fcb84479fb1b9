"""Where the norm of a sublayer may stand, a file each; see `parts.Norm`."""
