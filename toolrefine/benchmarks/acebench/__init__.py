"""ACEBench (arXiv 2501.12851): normal and special categories."""
