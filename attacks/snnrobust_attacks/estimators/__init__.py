"""How a gradient passes a spike."""
