"""Measurements by name: curvature by operator, slices of the loss, sharpness."""
