"""`python -m llada_rt` is the command line."""

from .cli.app import main

main()
