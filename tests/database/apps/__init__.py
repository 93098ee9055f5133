"""Apps whose models are difficult for validation."""
