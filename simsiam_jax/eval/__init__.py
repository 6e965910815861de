"""What a backbone's features are worth: kNN, a linear probe, fine-tuning."""
