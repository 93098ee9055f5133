"""A migration whose threads use the ORM; the first process stays until it is killed."""
