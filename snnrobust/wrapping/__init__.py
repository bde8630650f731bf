"""Any SNN as a stateless, batch-first function: `SpikingModel`, and how one is made."""
