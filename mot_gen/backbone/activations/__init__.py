"""Functions of a feed-forward's hidden channels, a file each; see `parts.Activation`."""
