"""The build after `portable`: its migration is squashed, and its file is deleted."""
