"""For several databases: each says when it is inside, waits for "go", and one may fail."""
