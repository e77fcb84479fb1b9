"""Which heads of attention a token may use, a file each; see `parts.HeadChoice`."""
