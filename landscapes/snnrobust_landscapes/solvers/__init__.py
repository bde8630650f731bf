"""Eigenvalues, traces and densities of an operator that is known by its products alone."""
