from pathlib import Path
from typing import Any, Callable

class _Module:
    def __getitem__(self, name: str) -> Callable[..., Any]: ...

library: _Module

def installed(name: str) -> list[Path]: ...
