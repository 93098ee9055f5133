"""The build after `plain`: its five migrations, and two more."""
