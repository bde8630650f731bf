"""Evaluations described by a config file, with one process for each model."""
