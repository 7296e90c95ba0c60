"""What is kept of botocore's model of EC2: the actions that we ask for, and what goes into them.

The whole of it is 700 actions in some 45,000 objects, which would stay in memory with every client
and which each full garbage collection would walk through, on the event loop's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from botocore.loaders import Loader

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["Models"]

_MODEL: Final = "service-2"  # botocore's name for the kind of file that describes actions
_PARTS: Final = ("member", "key", "value")  # of lists and maps


class Models(Loader):
    """botocore's loader of models, which forgets all but some actions.

    Args:
        actions: Those.
        paths: Where models are looked for beside botocore's own; see its ``data_path``.
    """

    def __init__(self, actions: Iterable[str], paths: Iterable[str] = ()) -> None:
        super().__init__(extra_search_paths=list(paths))
        self._actions = frozenset(actions)
        self._paths = tuple(paths)

    def load_service_model(
        self, service_name: str, type_name: str, api_version: str | None = None
    ) -> Any:
        """A model; of actions, those that were asked for."""
        if type_name != _MODEL:
            return super().load_service_model(service_name, type_name, api_version)
        passing = Loader(extra_search_paths=list(self._paths))  # loaders keep all they have read
        model = passing.load_service_model(service_name, type_name, api_version)
        operations = {
            name: {k: v for k, v in operation.items() if k not in ("documentation", "output")}
            for name, operation in model["operations"].items()
            if name in self._actions
        }
        shapes = _reached(model["shapes"], {one["input"]["shape"] for one in operations.values()})
        return {"metadata": model["metadata"], "operations": operations, "shapes": shapes}


def _reached(shapes: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The shapes called `names`, and all that they are made of."""
    reached: dict[str, Any] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        shape = reached[name] = shapes[name]
        parts = (*shape.get("members", {}).values(), *(shape.get(part) for part in _PARTS))
        waiting += [part["shape"] for part in parts if part]
    return reached
