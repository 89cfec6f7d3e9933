"""The compiled model: its forward pass against the oracles, the layouts it loads, and the files it must refuse."""
