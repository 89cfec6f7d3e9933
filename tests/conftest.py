"""One BLAS thread for the tiny matrices of the tests, set before numpy is imported; less for the collector."""

import gc
import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


def pytest_collection_finish() -> None:
    """What has been imported by now stays: no collection needs to look at it, which takes a tenth of a second."""
    gc.collect()
    gc.freeze()
