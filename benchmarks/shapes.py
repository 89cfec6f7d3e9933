"""The models of the step benchmarks, and the arithmetic that a step of each needs.

torch is imported where weights are made: the command line reads the names of the shapes for its help.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from training.model import LLaDA, ModelConfig

PROMPT_LENGTH = 64
GEN_LENGTH = 128
BLOCK_LENGTH = 32
CANVAS_LENGTH = PROMPT_LENGTH + GEN_LENGTH


@dataclass(frozen=True, slots=True)
class Shape:
    """Multi-head attention with as many K/V heads, untied head."""

    name: str
    d_model: int
    n_layers: int
    mlp_hidden_size: int
    vocab_size: int = 32000
    head_dim: int = 64

    @property
    def config(self) -> ModelConfig:
        from training.model import ModelConfig

        return ModelConfig(
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.d_model // self.head_dim,
            n_kv_heads=self.d_model // self.head_dim,
            mlp_hidden_size=self.mlp_hidden_size,
            vocab_size=self.vocab_size,
            max_sequence_length=1024,
            mask_token_id=self.vocab_size - 1,
            eos_token_id=self.vocab_size - 2,
            pad_token_id=self.vocab_size - 2,
        )

    def flops(self, num_query: float, num_head_rows: float, num_keys: int = CANVAS_LENGTH) -> float:
        """Multiplications and additions of a step:

        `num_query` rows through the blocks, some of them through the head.
        """
        matrices = 4 * self.d_model**2 + 3 * self.d_model * self.mlp_hidden_size
        scores_and_values = 2 * num_keys * self.d_model
        blocks = 2 * self.n_layers * num_query * (matrices + scores_and_values)
        return blocks + 2 * num_head_rows * self.d_model * self.vocab_size

    def weights(self, device: str = "cpu") -> Iterator[tuple[str, torch.Tensor]]:
        """Random weights, name by name in the order of the state dict: bfloat16, seeded, drawn on `device`.

        The same device gives the same weights each time, in any process.
        """
        import torch

        from training.model import LLaDA

        with torch.device("meta"):
            sizes = {name: tensor.shape for name, tensor in LLaDA(self.config).state_dict().items()}
        generator = torch.Generator(device).manual_seed(0)
        for name, size in sizes.items():
            drawn = torch.ones(size, dtype=torch.bfloat16, device=device)
            yield name, drawn if len(size) == 1 else drawn.normal_(std=size[-1] ** -0.5, generator=generator)

    def model(self, device: str = "cpu") -> LLaDA:
        """The torch module with those weights, on that device."""
        import torch

        from training.model import LLaDA

        with torch.device("meta"):
            model = LLaDA(self.config).bfloat16()
        model.load_state_dict(dict(self.weights(device)), assign=True)
        return model.eval()

    def write(self, folder: Path, *, device: str = "cpu") -> Path:
        """Those weights as a bfloat16 checkpoint in the published layout. Returns the folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.to_json("bfloat16"))
        tensors = {f"model.{name}": weight.cpu() for name, weight in self.weights(device)}
        save_file(tensors, folder / "model.safetensors")
        return folder

    def text(self, length: int) -> list[int]:
        """Random tokens, none of them special."""
        import torch

        generator = torch.Generator("cpu").manual_seed(1)
        return torch.randint(0, self.vocab_size - 2, (length,), generator=generator, device="cpu").tolist()

    def canvas(self) -> list[int]:
        """A random prompt followed by masks."""
        return [*self.text(PROMPT_LENGTH), *[self.config.mask_token_id] * GEN_LENGTH]


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("s", d_model=512, n_layers=8, mlp_hidden_size=1536),
        Shape("m", d_model=1024, n_layers=12, mlp_hidden_size=2816),
        Shape("l", d_model=2048, n_layers=16, mlp_hidden_size=5632),
    )
}

# LLaDA-8B, which is timed where a GPU is.
EIGHT_B = Shape("8b", d_model=4096, n_layers=32, mlp_hidden_size=12288, vocab_size=126464, head_dim=128)
