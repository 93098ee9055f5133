"""The commands, one module each; the rule is in the docstring of `management`."""
