"""Claims about optimizers: what trains faster, further or more stably, and why."""
