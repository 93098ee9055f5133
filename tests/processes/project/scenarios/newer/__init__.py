"""The build after `plain`: the same five migrations, and two more."""
