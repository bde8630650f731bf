"""Whether a curvature number predicts the measured loss, and how far that is known."""
