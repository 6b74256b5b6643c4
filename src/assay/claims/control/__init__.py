"""Claims that must not hold: the laboratory's own controls."""
