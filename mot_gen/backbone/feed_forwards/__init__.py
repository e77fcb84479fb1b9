"""What a token may pass through alone, a file each; see `parts.FeedForward`."""
