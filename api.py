# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
retort: distil small, fast retrievers out of strong, slow ones. Mounted as `retort/__init__.py`.

### Usage example

```python
import retort

student = retort.distill("my-data", out="runs/first", settings={"stages.0.steps": 400})
student.encode_query(["How do I parse JSON?"])

recipe = retort.Recipe.from_yaml("kd", overrides=["training.seed=1"])
student = retort.distill("my-data", out="runs/second", recipe=recipe)
```
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retort.students import Ranker, Student
    from retort.trainers.distill import distill
    from retort.trainers.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Ranker", "Recipe", "Student", "__version__", "distill"]

_HOMES = {
    "Ranker": "retort.students",
    "Recipe": "retort.trainers.recipe",
    "Student": "retort.students",
    "distill": "retort.trainers.distill",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import retort` stays fast."""
    if name not in _HOMES:
        msg = f"module 'retort' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)
