"""Measurements of a model without an attack: activity, and distances of membrane potentials to the threshold."""
