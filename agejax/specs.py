"""Options as JSON and back, so that a checkpoint says which network, objective and crop it belongs to.

A dataclass is an object with its class's name under "type"; reading looks that name up in one table of classes.
"""

import dataclasses
import difflib
from pathlib import PurePath
from typing import Any

from agejax.labels import LabelGrid
from agejax.models.inputs import Inputs
from agejax.models.network import FAMILIES
from agejax.objectives import OBJECTIVES
from agejax.training.weighting import WEIGHTINGS
from data_pipelines.align import Alignment
from data_pipelines.errors import UserError
from data_pipelines.samplers import ORDERS, SELECTIONS

TYPES = FAMILIES | OBJECTIVES | SELECTIONS | ORDERS | WEIGHTINGS
TYPES |= {cls.__name__: cls for cls in (LabelGrid, Alignment, Inputs)}


def encode(value: Any) -> Any:
    """Dataclasses, tuples and paths, nested as they like → what json.dumps takes."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def decode(value: Any, origin: str) -> Any:
    """The inverse for the classes of TYPES. Raises UserError for a class or a field that this version does not know."""
    if isinstance(value, list):
        return tuple(decode(item, origin) for item in value)
    if not isinstance(value, dict) or "type" not in value:
        return value
    fields = {name: decode(item, origin) for name, item in value.items() if name != "type"}
    name = value.get("type")
    if name not in TYPES:
        near = difflib.get_close_matches(str(name), TYPES) or sorted(TYPES)
        raise UserError(f"{origin} holds an unknown {name!r}; this version knows {', '.join(near)}")
    try:
        return TYPES[name](**fields)
    except TypeError as error:
        raise UserError(f"{origin}: {name} of another version: {error}") from None
