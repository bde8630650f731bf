"""What every folder may use: randomness, files, progress, batching, statistics, checks of arguments."""
