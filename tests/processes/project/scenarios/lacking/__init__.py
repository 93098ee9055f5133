"""A migration, once the test allows "go", that takes away what the models need."""
