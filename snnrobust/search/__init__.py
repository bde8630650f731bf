"""The loop around every attack: active set, queries to the model, scoring on the user's own net."""
