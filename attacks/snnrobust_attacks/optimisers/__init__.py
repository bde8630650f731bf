"""How a threat model is searched."""
