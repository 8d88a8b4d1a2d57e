from typing import Any, Callable

class _Module:
    def __getitem__(self, name: str) -> Callable[..., Any]: ...

library: _Module
