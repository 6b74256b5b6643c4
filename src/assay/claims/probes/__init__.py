"""Claims about instruments: what a trained or training network is doing."""
