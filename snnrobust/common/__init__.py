"""Shared helpers: randomness, files, progress, batching, statistics, checks of arguments."""
