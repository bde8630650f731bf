"""Each neuron equation, written once: eager (twice differentiable, vmap, jvp) and accelerated."""
