"""Small models and books that train in seconds."""

import pytest
import torch

from training.config import TrainConfig
from training.model import LLaDA, ModelConfig
from training.objectives import MaskedObjective
from training.tasks.verse import PHRASES, VerseBook
from training.tasks.verse_batches import VerseBatches, VerseConfig
from training.tokenization import MASK_TOKEN, build_tokenizer
from training.trainer import Trainer


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, and no fight with the tests beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def book() -> VerseBook:
    return VerseBook(VerseBook.select(max_chars=24).poems[:8])


@pytest.fixture(scope="session")
def tokenizer(book):
    return build_tokenizer((poem.text + poem.title + poem.author for poem in book.poems), PHRASES)


def small_config(**changes) -> ModelConfig:
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 48, "vocab_size": 64}
    ids = {"mask_token_id": 2, "eos_token_id": 1, "pad_token_id": 1}
    return ModelConfig(**{**sizes, **ids, **changes})


def small_model(seed: int = 0, **changes) -> LLaDA:
    model = LLaDA(small_config(**changes))
    model.initialize(torch.Generator().manual_seed(seed))
    return model


@pytest.fixture
def make_trainer(book, tokenizer, tmp_path):
    """make_trainer(folder name, **training options) -> a Trainer on eight short poems."""

    def make(name: str = "run", **changes) -> Trainer:
        kinds = {"plain": 0.4, "lines": 0.4, "recite": 0.2}
        data = VerseConfig(max_chars=24, batch_tokens=256, kinds=kinds, pads={kind: [0, 2] for kind in kinds})
        options = {"seed": 3, "steps": 12, "lr": 0.01, "matrix_lr": 0.02, "warmup_steps": 2, "log_every": 1}
        config = TrainConfig(**{**options, "checkpoint_every": 1000, **changes})
        model = small_model(vocab_size=tokenizer.get_vocab_size(), weight_tying=True)
        batches = VerseBatches.build(book, tokenizer, data, config.seed)
        mask_id = tokenizer.token_to_id(MASK_TOKEN)
        objective = MaskedObjective(mask_id, normalisation="answers", counted=config.counted_masks)
        return Trainer(model, batches, objective, config, tmp_path / name)

    return make
