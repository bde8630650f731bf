"""A faster model that shares the user's parameters and only ever searches."""
