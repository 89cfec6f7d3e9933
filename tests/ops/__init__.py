"""Each op of each instruction-set table against its float64 twin; awkward sizes, threads, neighbours."""
