"""What a backend provides."""
