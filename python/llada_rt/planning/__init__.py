"""What comes next, as plain values: canvas, plan, cache policies, decoders, constraints, scheduler."""
