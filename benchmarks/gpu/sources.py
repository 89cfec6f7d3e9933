"""Print the hash of everything that is compiled:  python -m benchmarks.gpu.sources"""

from pathlib import Path

from benchmarks.gpu.sources_hash import sources_hash

if __name__ == "__main__":
    print(sources_hash(Path(__file__).resolve().parents[2]))
