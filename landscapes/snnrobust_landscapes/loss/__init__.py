"""The training loss as a function of weights or of inputs, in fixed chunks."""
