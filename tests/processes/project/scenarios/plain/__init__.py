"""Five quick migrations, the last a data migration."""
