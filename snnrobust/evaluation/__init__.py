"""Runs the cells of an evaluation (model x task x strength) and stores their outcomes."""
