"""No models: the migrations of the tests make the tables."""
