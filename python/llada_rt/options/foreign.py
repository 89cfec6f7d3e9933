"""Options that other engines know and this one does not, and what this engine says of each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ORDER = "a masked diffusion model commits tokens by confidence, not one after the other by their distribution"
_CUT = f"not supported, because {_ORDER}: there is no next token to choose among; temperature is the knob"
_PENALTY = f"not supported, because {_ORDER}: what was said so far is no prefix; a stop or a regex bounds repetition"
_BEAMS = f"not supported, because {_ORDER}; n gives several samples"
_TOOLS = "not supported, because the models are not trained for it; regex and choice give answers of a fixed form"

# Options of a request. Each sentence goes on from "'top_p' is".
PARAMS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("top_p", "top_k", "min_p", "typical_p", "top_a", "tfs", "epsilon_cutoff", "mirostat", "mirostat_tau"), _CUT
    )
    | dict.fromkeys(
        ("frequency_penalty", "presence_penalty", "repetition_penalty", "repeat_penalty", "length_penalty"), _PENALTY
    )
    | dict.fromkeys(
        ("no_repeat_ngram_size", "bad_words", "bad_words_ids", "logit_bias", "allowed_token_ids"),
        "not supported, because the choice of a token is compiled and takes no list; regex says what may be written",
    )
    | dict.fromkeys(
        ("best_of", "num_beams", "beam_size", "use_beam_search", "early_stopping", "diversity_penalty"), _BEAMS
    )
    | dict.fromkeys(("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"), _TOOLS)
    | dict.fromkeys(
        ("response_format", "guided_json", "guided_grammar", "json_schema", "grammar", "structured_outputs"),
        "not supported, because only regular languages are kept to; regex or choice says what an answer must be",
    )
    | dict.fromkeys(("guided_regex", "guided_choice"), "written without its first half: regex=... or choice=[...]")
    | dict.fromkeys(
        ("echo", "return_full_text"),
        "not supported, because an output has the prompt beside it (prompt, prompt_token_ids)",
    )
    | dict.fromkeys(("stream", "stream_options", "streamer"), "no option of a request: call engine.stream(...)")
    | dict.fromkeys(
        ("suffix", "prompt", "messages"), "no decoding option: it belongs to the prompt, {...} in its place"
    )
    | {"top_logprobs": "called logprobs here: a number of alternatives, 0 for the token alone"}
    | {"prompt_logprobs": "not supported, because a prompt is not generated; engine.score rates a text"}
    | dict.fromkeys(
        ("min_tokens", "min_new_tokens", "min_length"),
        "not supported, because the length is that of the canvas; logits_eos_inf keeps an answer from ending early",
    )
    | {"max_length": "not supported, because it counts the prompt too; gen_length is the answer's length"}
    | {
        "add_special_tokens": "not supported, because the chat template or the prompt writes them; "
        "split_special_tokens says how texts are read",
        "parse_special": "called split_special_tokens here, the other way round",
    }
    | {"ignore_eos": "called logits_eos_inf here"}
    | {"do_sample": "not needed: temperature above 0 samples, 0 takes the best"}
    | {"model": "no option of a request: an engine has one model, Engine(model_dir)"}
    | {"user": "not supported, because nothing is kept about users; request_ids name requests"}
    | {"skip_special_tokens": "not supported, because texts never hold special tokens; token_ids do"}
)

# Options of an engine.
ENGINE: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "tp_size", "device_map"),
        "not supported, because an engine runs on one device; device='cuda:1' names it",
    )
    | dict.fromkeys(
        ("dtype", "torch_dtype", "quantization", "load_in_8bit", "load_in_4bit"), "called compute_type here"
    )
    | dict.fromkeys(
        ("gpu_memory_utilization", "mem_fraction_static", "swap_space", "cpu_offload_gb", "kv_cache_dtype"),
        "not supported, because memory is bounded in bytes: memory_limit='8GB'",
    )
    | dict.fromkeys(
        ("max_model_len", "n_ctx", "context_length"),
        "not supported, because the model's own context holds; memory is taken per request",
    )
    | dict.fromkeys(
        ("n_threads", "num_threads", "intra_threads", "inter_threads", "cpu_threads"), "called threads here"
    )
    | dict.fromkeys(
        ("trust_remote_code", "revision", "download_dir"),
        "not supported, because models are local folders and no code of theirs is run",
    )
    | dict.fromkeys(
        ("enforce_eager", "enable_prefix_caching", "use_cache", "attn_implementation"),
        "not supported, because there is one way to run; cache is an option of a request",
    )
    | {"seed": "an option of a request: SamplingParams(seed=...)"}
    | dict.fromkeys(("n_gpu_layers", "gpu_layers"), "not supported, because a model runs on one device as a whole")
    | dict.fromkeys(("model", "model_path", "model_id"), "called model_dir here, the first argument")
)
