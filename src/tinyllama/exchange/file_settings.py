"""Settings in files of other programs (config.json, GGUF metadata), checked by strict pydantic models."""

import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyllama.errors import InputError

Size = Annotated[int, Field(gt=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FileSettings(BaseModel):
    """Base of a file's settings. Values are not converted, and keys that are not declared are ignored.

    A field's `alias` is its key in the file; its `description`, where it has one, ends the error message.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", protected_namespaces=())

    @classmethod
    def read(cls, values: dict[str, Any], path: Path, section: str = "") -> Self:
        """Check the `values` of `path`, or of one `section` of it. Raises InputError with file, key and value."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault: Any = error.errors(include_url=False)[0]
        if fault["type"] == "value_error":  # of a model's own check, which names the key
            raise InputError(f"{path}: {fault['ctx']['error']}")
        key = ".".join([section] * bool(section) + [str(name) for name in fault["loc"]])
        problem = "missing"
        if fault["type"] != "missing":
            demand = re.sub("^(Input|List|String) should", "must", fault["msg"])
            problem = f"{' '.join(reprlib.repr(fault['input']).split())} {demand}"
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        hint = fields[key].description if key in fields else None
        raise InputError(f"{path}: {key}: {problem}" + (f"; {hint}" if hint else ""))
