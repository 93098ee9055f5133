"""The app whose migrations are generated. Its models exist only in their states."""
