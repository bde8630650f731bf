"""Attacks that look for the closest adversarial example."""
