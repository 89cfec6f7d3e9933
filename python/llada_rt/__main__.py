"""`python -m llada_rt` is the command line."""

from .cli import main

main()
