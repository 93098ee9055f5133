"""A migration waits until the test allows "go", and drops a column that the models need."""
