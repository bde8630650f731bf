"""What the core has to know of a framework: where its spiking nodes are, and how their state is reset."""
