"""toolrefine: teach open-weight language models to call tools better (ToolACE-R, arXiv 2504.01400)."""

__version__ = "0.1.0"
