"""Train a tokenizer, an ordinary tokenizer.json (training/tokenization.py):

    python -m training.tokenizer poems.jsonl --out tokenizer.json --kind characters
    python -m training.tokenizer plays/*.txt --out tokenizer.json --kind bpe --vocab-size 4096

The files are read as training rows are; every text in them counts, whatever the form of the row.
"""

import argparse
import sys
from pathlib import Path

from training.rows import RowConfig, read_records
from training.tokenization import build_tokenizer, texts_in, train_bpe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help=".txt, .jsonl or .parquet, as training/rows.py")
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json to write; never overwritten")
    parser.add_argument("--kind", choices=("bpe", "characters"), default="bpe", help="default: byte-level BPE")
    parser.add_argument("--vocab-size", type=int, default=4096, help="of BPE, special tokens included")
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"error: {arguments.out} exists already")
    records = (record for path in arguments.files for _, record in read_records(path, RowConfig()))
    texts = (text for record in records for text in texts_in(record))
    try:
        is_bpe = arguments.kind == "bpe"
        tokenizer = train_bpe(texts, arguments.vocab_size) if is_bpe else build_tokenizer(texts)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.out), pretty=False)
    print(f"{arguments.out}: {tokenizer.get_vocab_size()} entries", file=sys.stderr)


if __name__ == "__main__":
    main()
