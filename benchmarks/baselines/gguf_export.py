"""An ARM folder as a GGUF file of the llama architecture, for llama.cpp:

    python -m benchmarks.baselines.gguf_export MODEL_DIR OUT.gguf [--type bf16]

Sizes, norms and matrices are Llama's under other names. One thing differs: llama.cpp rotates neighbouring pairs of a
head where this project rotates its halves, so the rows of Q and K are reordered, as llama.cpp's own converter does with
Hugging Face's Llama. There is no vocabulary in the file: it is fed token ids and gives token ids.
"""

import argparse
from pathlib import Path
from typing import get_args

from benchmarks.baselines.gguf_file import GgufType, export_gguf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=get_args(GgufType), default="bf16")
    options = parser.parse_args()
    print(export_gguf(options.model_dir, options.out, options.type))


if __name__ == "__main__":
    main()
