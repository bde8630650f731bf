"""Facts of a stored run: curves, comparisons, records. Nothing here judges."""
