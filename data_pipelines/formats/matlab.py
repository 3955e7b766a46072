"""Tables that MATLAB wrote."""

from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError


def read_struct(file: Path, name: str, *fields: str) -> dict[str, np.ndarray]:
    """Field → its values, one-dimensional: numbers, or objects where they are texts or boxes. `fields` must be there.

    One struct whose fields are arrays and an array of structs give the same; cells within cells are opened. Raises
    DataError.
    """
    import scipy.io  # slow to import, and few sets need it

    try:
        struct = scipy.io.loadmat(file, variable_names=[name]).get(name)
    except NotImplementedError:
        raise DataError(f"{file} is a MATLAB 7.3 file; give one of an older version (save -v7)") from None
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise DataError(f"{file} cannot be read as a MATLAB file: {error}; fetch it again") from None
    there = getattr(getattr(struct, "dtype", None), "names", None) or ()
    if absent := [field for field in fields if field not in there]:
        raise DataError(f"{file}: struct {name!r} has no field {absent[0]!r}; it has {', '.join(there) or 'none'}")
    columns = {field: _column(struct[field]) for field in there}
    lengths = {field: len(columns[field]) for field in fields}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{file}: the fields of {name!r} differ in length: {lengths}")
    return columns


def text(value) -> str:
    """ "" where a cell is empty."""
    return value.strip() if isinstance(value, str) else ""


def _column(values: np.ndarray) -> np.ndarray:
    if values.size == 1:  # one struct: the field's array lies in it
        values = np.asarray(values.ravel()[0])
    values = values.ravel()
    if values.dtype != object:
        return values
    column = np.empty(len(values), object)
    for i, value in enumerate(values):
        column[i] = _opened(value)
    return column


def _opened(value):
    """What lies in cells of one element."""
    while isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    return value
