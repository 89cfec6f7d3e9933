"""What runs: the runner over the compiled module, jobs, the stepper, the dispatcher and its thread."""
