"""An engine of a project whose `get_new_connection` a test replaces."""
