"""One process's initialization of one database."""
