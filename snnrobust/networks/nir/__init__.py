"""Nets from the Neuromorphic Intermediate Representation (NIR)."""

from snnrobust.networks.nir.load import from_nir

__all__ = ["from_nir"]
