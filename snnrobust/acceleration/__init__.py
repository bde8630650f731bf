"""A faster model that shares the user's parameters and is used for searches only."""
