"""llada-rt: a compiled inference runtime for LLaDA-style masked diffusion language models.

    from llada_rt import Engine, SamplingParams

    with Engine("model_dir") as engine:
        print(engine.generate("...", SamplingParams(gen_length=64))[0].text)

Names are loaded when they are first used, so that `import llada_rt` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .async_engine import AsyncEngine as AsyncEngine
    from .config import EngineConfig as EngineConfig
    from .config import EngineOptions as EngineOptions
    from .engine import Engine as Engine
    from .errors import AdmissionError as AdmissionError
    from .errors import ChatRoleError as ChatRoleError
    from .errors import ChatTemplateError as ChatTemplateError
    from .errors import ConfigError as ConfigError
    from .errors import ContextLengthError as ContextLengthError
    from .errors import DeviceError as DeviceError
    from .errors import EngineClosedError as EngineClosedError
    from .errors import EngineStuckError as EngineStuckError
    from .errors import InternalError as InternalError
    from .errors import InvalidRequestError as InvalidRequestError
    from .errors import LladaRtError as LladaRtError
    from .errors import ModelError as ModelError
    from .errors import ModelFormatError as ModelFormatError
    from .errors import ModelNotFoundError as ModelNotFoundError
    from .errors import ModelWarning as ModelWarning
    from .errors import OutOfMemoryError as OutOfMemoryError
    from .errors import OutputError as OutputError
    from .errors import QueueFullError as QueueFullError
    from .errors import RequestCancelledError as RequestCancelledError
    from .errors import RequestTooLargeError as RequestTooLargeError
    from .errors import TokenizerError as TokenizerError
    from .errors import UnsupportedModelError as UnsupportedModelError
    from .options.types import SamplingOptions as SamplingOptions
    from .outputs import CacheAudit as CacheAudit
    from .outputs import CompletionOutput as CompletionOutput
    from .outputs import DiffusionStats as DiffusionStats
    from .outputs import EngineStats as EngineStats
    from .outputs import FilledHole as FilledHole
    from .outputs import FinishReason as FinishReason
    from .outputs import RequestMetrics as RequestMetrics
    from .outputs import RequestOutput as RequestOutput
    from .outputs import ScoreOutput as ScoreOutput
    from .outputs import StepEvent as StepEvent
    from .outputs import TextEvent as TextEvent
    from .outputs import TokenInfo as TokenInfo
    from .outputs import TokenLogprob as TokenLogprob
    from .outputs import TopLogprob as TopLogprob
    from .outputs import Usage as Usage
    from .params import SamplingParams as SamplingParams
    from .runtime.device import __version__ as __version__
    from .runtime.runner import build_info as build_info
    from .text.template import Hole as Hole
    from .tuning.report import TuneReport as TuneReport
    from .tuning.report import TuneRow as TuneRow

_NAMES = {
    "async_engine": ("AsyncEngine",),
    "config": ("EngineConfig", "EngineOptions"),
    "runtime.device": ("__version__",),
    "engine": ("Engine",),
    "errors": (
        *("AdmissionError", "ChatRoleError", "ChatTemplateError", "ConfigError", "ContextLengthError", "DeviceError"),
        *("EngineClosedError", "EngineStuckError", "InternalError", "InvalidRequestError", "LladaRtError"),
        *("ModelError", "ModelFormatError", "ModelNotFoundError", "ModelWarning", "OutOfMemoryError", "OutputError"),
        *("QueueFullError", "RequestCancelledError", "RequestTooLargeError", "TokenizerError", "UnsupportedModelError"),
    ),
    "options.types": ("SamplingOptions",),
    "outputs": (
        *("CacheAudit", "CompletionOutput", "DiffusionStats", "EngineStats", "FilledHole", "FinishReason"),
        *("RequestMetrics", "RequestOutput"),
        *("ScoreOutput", "StepEvent", "TextEvent", "TokenInfo", "TokenLogprob", "TopLogprob", "Usage"),
    ),
    "params": ("SamplingParams",),
    "runtime.runner": ("build_info",),
    "text.template": ("Hole",),
    "tuning.report": ("TuneReport", "TuneRow"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
