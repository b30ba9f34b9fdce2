"""A module that is called otherwise than its class says, and stays an instance of it for everyone who asks."""

import functools
import types
from collections.abc import Callable
from typing import Any


def stand_in(module: Any, call: Callable) -> None:
    """From now on ``module(*args, **kwargs)`` is ``call(module, own, *args, **kwargs)``, where ``own(module, …)`` is
    what it was. The module becomes of a class derived from its own, the same one for the same ``call``."""
    cls: Any = type(module)
    module.__class__ = _derived(cls, call)


@functools.cache
def _derived(cls: Any, call: Callable) -> type:
    def body(namespace):
        namespace["__call__"] = lambda self, *args, **kwargs: call(self, cls.__call__, *args, **kwargs)
        namespace["__module__"] = cls.__module__

    return types.new_class(cls.__name__, (cls,), {"pytree": cls._pytree__is_pytree}, body)
