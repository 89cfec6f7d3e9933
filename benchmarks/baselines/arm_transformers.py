"""The ARM twin as `LlamaForCausalLM` of the package transformers: same weights, `generate` with its static cache.

Prompts of unequal length are padded on the left with an attention mask; rows run until the last one has ended.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines.contract import Answer, Kind, NotInstalled, Question, check_room, cut
from training.model import LLaDA, ModelConfig

NAMES = {  # of a layer's tensors: ours -> theirs
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


class TransformersArm:
    """`stop_ids` end an answer; without any, every answer has all the tokens asked for.

    `cache`: "static" or "dynamic", of `generate`. Threads are those of torch (`torch.set_num_threads`). Raises
    NotInstalled.
    """

    kind: Kind = "arm"

    def __init__(
        self, folder: Path, *, dtype: torch.dtype = torch.bfloat16, stop_ids: Sequence[int] = (), cache: str = "static"
    ) -> None:
        self.name = f"transformers {str(dtype).removeprefix('torch.')}"
        try:
            import transformers
        except ImportError as error:
            raise NotInstalled(self.name, error.name or "transformers") from None
        model = LLaDA.from_folder(folder, dtype=dtype)
        self.config, self.stop_ids = model.config, tuple(stop_ids)
        self.model = llama(model, transformers)
        self.options = transformers.GenerationConfig(
            do_sample=False,
            cache_implementation=cache if cache == "static" else None,
            eos_token_id=list(stop_ids) or None,
            pad_token_id=self.config.pad_token_id,
            disable_compile=True,  # of the static cache on some devices; a step here is compared uncompiled
        )

    def close(self) -> None:
        del self.model

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        check_room(questions, self.config.max_sequence_length)
        longest = max(len(question.prompt) for question in questions)
        limits = [question.max_new_tokens for question in questions]
        tokens = torch.full((len(questions), longest), self.config.pad_token_id)
        mask = torch.zeros_like(tokens)
        for row, question in enumerate(questions):
            tokens[row, longest - len(question.prompt) :] = torch.tensor(question.prompt)
            mask[row, longest - len(question.prompt) :] = 1
        clock = StepClock(len(questions))
        self.options.max_new_tokens = max(limits)
        written = self.model.generate(tokens, attention_mask=mask, generation_config=self.options, streamer=clock)
        rows = [row[:limit] for row, limit in zip(written[:, longest:].tolist(), limits, strict=True)]
        answers = []
        for row in rows:
            text = cut(row, self.stop_ids)
            num_written = min(len(text) + 1, len(row))  # the end token too, not the padding behind it
            answers.append(
                Answer(
                    tokens=text,
                    total_s=clock.seconds[num_written - 1],
                    first_token_s=clock.seconds[0],
                    num_forwards=len(clock.seconds),
                    num_computed=longest + len(clock.seconds) - 1,
                    num_written=num_written,
                )
            )
        return answers


class StepClock:
    """A streamer of `generate`, called with the prompt, then with each step's tokens. Notes when."""

    def __init__(self, num_rows: int) -> None:
        self.began = time.perf_counter()
        self.seconds: list[float] = []
        self._has_prompt = False

    def put(self, tokens: torch.Tensor) -> None:
        if self._has_prompt:
            self.seconds.append(time.perf_counter() - self.began)
        self._has_prompt = True

    def end(self) -> None:
        pass


def llama(model: LLaDA, transformers: Any) -> Any:
    """An ARM of model.py as transformers' Llama, sharing its weights."""
    config: ModelConfig = model.config
    if not config.causal:
        raise ValueError("expected a causal model (an ARM), got one with full attention")
    sizes = transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.mlp_hidden_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        max_position_embeddings=config.max_sequence_length,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        tie_word_embeddings=config.weight_tying,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=config.pad_token_id,
    )
    weights: dict[str, torch.Tensor] = {
        "model.embed_tokens": model.embedding.weight,
        "model.norm": model.final_norm.weight,
        "lm_head": model.head_weight,
    }
    for index, block in enumerate(model.blocks):
        weights |= {f"model.layers.{index}.{theirs}": getattr(block, ours).weight for ours, theirs in NAMES.items()}
    with torch.device("meta"):
        theirs = transformers.LlamaForCausalLM(sizes)
    state = {f"{name}.weight": weight.detach() for name, weight in weights.items()}
    theirs.load_state_dict(state, strict=True, assign=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(sizes)  # not a weight, so still without values
    return theirs.eval()
