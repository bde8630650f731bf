"""Numbers of a model that are no attack: activity, and how close membranes are to threshold."""
