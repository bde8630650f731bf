"""Noise on the input, by severity."""
