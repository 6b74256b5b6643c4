"""One file a paper: its claims, and nothing else. `papers.toml` in each folder is the subject's catalogue."""
