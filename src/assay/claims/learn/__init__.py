"""Claims about learning rules: what trains a network when it is not plain backpropagation."""
