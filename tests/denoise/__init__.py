"""The denoising loop of the compiled engine, token for token against the recorded, the committed and the torch runs."""
