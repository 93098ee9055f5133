"""An index built concurrently."""
