"""ACEBench (arXiv 2501.12851)."""
