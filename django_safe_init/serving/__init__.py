"""What a web process does beside its requests, and answers."""
