"""What training makes of a packed batch: it is corrupted (`corruption`), and what counts of it is listed
(`supervision`), both on the host; then losses follow from the model's outputs (`token_losses`)."""
