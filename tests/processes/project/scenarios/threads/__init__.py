"""A migration whose threads use the ORM. The first process waits until the test kills it."""
