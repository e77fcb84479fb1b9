"""Which keys a query may see, a file each; see `parts.Reach`."""
