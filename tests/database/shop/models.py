"""No models: the migrations of the tests create the tables."""
