"""Python -m toolrefine is the toolrefine command."""

from toolrefine.cli import main

main()
