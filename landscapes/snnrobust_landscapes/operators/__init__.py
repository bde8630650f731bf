"""Second-order objects of a loss, each with its name."""
