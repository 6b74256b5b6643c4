"""Claims about losses: what is better to minimise."""
