"""PyTorch training of LLaDA-style masked diffusion models: definition, losses, trainer, export."""
