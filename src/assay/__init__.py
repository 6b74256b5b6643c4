"""Published deep-learning and imaging methods, and a laboratory that puts every paper's claim to the test."""

__version__ = "0.1.0"
