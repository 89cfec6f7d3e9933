"""Trials on disk, a JSON line each: a run that was interrupted goes on with those it has."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ConfigError, OutputError
from ..excerpt import excerpt
from .space import Setting
from .trial import Trial

VERSION = 1


class State:
    """The file. Its first line says of what run it is; `facts` of another run are a ConfigError.

    A line that was cut short, by a crash or a full disk, is taken off the end.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], *, restart: bool = False) -> None:
        self._path = path
        self._trials: dict[tuple[str, int], Trial] = {}
        head = {"version": VERSION, **facts}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if restart:
                path.unlink(missing_ok=True)
            kept = self._read(head) if path.exists() else b""
            self._file = path.open("ab")
            self._file.truncate(len(kept))
        except OSError as error:
            raise self._error(error) from error
        if not kept:
            self._append(head)

    def __enter__(self) -> State:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # every line was flushed
            self._file.close()

    def measured(
        self,
        measure: Callable[[Setting, int], Trial],
        remember: Callable[[Setting, int, Trial], None],
    ) -> Callable[[Setting, int], Trial]:
        """`measure`, for what is not known yet; what is goes to `remember`."""

        def find(setting: Setting, turn: int) -> Trial:
            key = setting.key, turn
            if key in self._trials:
                remember(setting, turn, self._trials[key])
            else:
                trial = measure(setting, turn)
                self._append({"setting": dict(setting.options), "turn": turn, "trial": trial.to_dict()})
                self._trials[key] = trial
            return self._trials[key]

        return find

    def _read(self, head: Mapping[str, Any]) -> bytes:
        """The whole lines of the file; their trials are kept."""
        data = self._path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(data.splitlines(), 1):
            try:
                value = json.loads(line)
                if number == 1:
                    self._check(value, head)
                    continue
                trial = Trial.from_dict(value["trial"])
                self._trials[Setting("", value["setting"]).key, int(value["turn"])] = trial
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(
                    f"{self._name}: line {number}: expected a trial, got something else: {excerpt(str(error))}",
                    param="restart",
                    hint="begin anew with restart",
                ) from error
        return data

    def _check(self, found: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        differs = [name for name in head if found.get(name) != head[name]]
        if differs:
            raise ConfigError(
                f"{self._name}: expected trials of this run, got those of one with other {', '.join(differs)}",
                param="restart",
                hint="begin anew with restart, or give another folder as out",
            )

    def _append(self, value: Mapping[str, Any]) -> None:
        try:
            self._file.write((json.dumps(value) + "\n").encode())
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    @property
    def _name(self) -> str:
        return excerpt(str(self._path), 300)

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"{self._name}: cannot be written: {error.strerror or type(error).__name__}", param="out")
