"""Numbers computed from a stored run: curves, comparisons, records. No findings or verdicts."""
