"""How tokens and experts may meet, a file each; see `parts.Router`."""
