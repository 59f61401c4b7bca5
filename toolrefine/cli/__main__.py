"""Python -m toolrefine.cli is the toolrefine command."""

from toolrefine.cli import main

main()
