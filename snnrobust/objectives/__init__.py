"""Objectives: what an attack maximises, one value per sample."""
