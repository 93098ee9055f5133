"""What differs between the database engines that have a leader lock."""
