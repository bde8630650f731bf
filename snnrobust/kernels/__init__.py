"""The neuron equations: eager (twice differentiable, vmap, jvp) and as fast kernels."""
