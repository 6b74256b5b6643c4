"""Claims about imaging: flows, inverse problems, restoration."""
