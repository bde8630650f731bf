"""Minimum-norm attacks: they search for the closest adversarial example."""
