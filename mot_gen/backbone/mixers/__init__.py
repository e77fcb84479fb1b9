"""What a block may mix its tokens by, a file each; see `parts.Mixer`."""
