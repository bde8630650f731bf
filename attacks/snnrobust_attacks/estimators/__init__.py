"""Gradient estimators: the derivative that a spike gets in the backward pass."""
