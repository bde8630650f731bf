"""Adapters to SNN frameworks: their spiking nodes, state and layers."""
