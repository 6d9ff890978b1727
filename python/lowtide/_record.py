"""Results with named fields, which cost a program no import: dataclasses brings inspect, ast and dis along, 2.7 MiB in all."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Record:
    """Fields as the subclass annotates them, set once, by position or name; equal where all of them are."""

    __match_args__: tuple[str, ...] = ()

    if not TYPE_CHECKING:

        def __init_subclass__(cls):
            cls.__match_args__ = tuple(cls.__annotations__)

        def __init__(self, *values, **named):
            fields = self.__match_args__
            given = dict(zip(fields, values))
            twice = given.keys() & named.keys()
            given.update(named)
            missing = [field for field in fields if field not in given and not hasattr(type(self), field)]
            if len(values) > len(fields) or twice or missing or given.keys() - set(fields):
                raise TypeError(f"{type(self).__name__} takes {', '.join(fields)}")
            for field in fields:  # the defaults too, so that vars() tells all
                self.__dict__[field] = given[field] if field in given else getattr(type(self), field)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"
