"""`python -m benchmarks` is `llada-rt bench`."""

import sys

from llada_rt.cli.app import main

main(["bench", *sys.argv[1:]])
