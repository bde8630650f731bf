"""Eigenvalues, traces and spectral densities of an operator, from its products with vectors."""
