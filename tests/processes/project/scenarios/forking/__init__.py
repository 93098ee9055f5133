"""A migration forks a child, which inherits all open files and survives its parent."""
