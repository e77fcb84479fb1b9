"""Files: pictures and sound read and written, manifests of hashes, progress shown, signals to stop."""
