"""Apps whose models are traps for validation: whoever looks carelessly finds something wrong."""
