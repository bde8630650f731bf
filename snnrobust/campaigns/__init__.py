"""Evaluations described by a file, with a process for each model."""
