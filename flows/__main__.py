"""`python -m flows` is the command `tidegate`."""

from flows.cli import main

main()
