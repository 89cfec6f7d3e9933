"""What to expect of LLaDA-8B on machines that were not at hand: the cost model's ceilings, and a share of them.

    python -m benchmarks.predictions [--share 0.6]

GPU limits are those of the vendors' data sheets (dense, SXM). A CPU is so many of the cores that were measured (Zen 4,
AVX-512), its memory that of a server with twelve channels of DDR5-4800 once the cores can draw so much. Nothing here
was measured on LLaDA-8B.
"""

import argparse

from benchmarks.llada_8b import SHARE, TOKENS_PER_STEP, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=SHARE, help="of the machine's limits that is reached")
    options = parser.parse_args()
    print(f"Predictions for LLaDA-8B, 256 tokens after 256, blocks of 32, {TOKENS_PER_STEP} tokens a step.\n")
    print("\n".join(table(options.share)))


if __name__ == "__main__":
    main()
