"""Spikes that are `torch.autograd.Function`s: found in any net, watched and swapped for a while."""
