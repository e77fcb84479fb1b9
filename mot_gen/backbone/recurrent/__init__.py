"""What mixers with a running state share (Mamba, KDA, linear attention): options, scans, and the cache of a state."""
