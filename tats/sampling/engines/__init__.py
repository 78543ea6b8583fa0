"""How one decoding step is taken: operation by operation, compiled on a CPU, replayed on a GPU."""
