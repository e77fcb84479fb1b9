"""What may be added to attention's scores, a file each; see `parts.Bias`."""
