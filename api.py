# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""
retort: distil small, fast retrievers out of strong, slow ones. Mounted as `retort/__init__.py`.

### Usage example

```python
import retort

# Documents alone: a student, its index, pipelines and a report.
outcome = retort.distill("my-documents", out="runs/mine")
print(outcome.metrics["student"]["ndcg@10"], outcome.verdict)

# Queries and judgements, or another tool's training data: a student.
student = retort.train("my-data", out="runs/first", recipe="kd", settings={"stages.0.steps": 400})
student.encode_query(["How do I parse JSON?"])
```
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retort.students import Ranker, Student
    from retort.trainers.recipe import Recipe
    from retort.workflows import distill, plan_distill, plan_train, stamp, train

__version__ = "0.1.0"
__all__ = ["Ranker", "Recipe", "Student", "__version__", "distill", "plan_distill", "plan_train", "stamp", "train"]

_HOMES = {
    "Ranker": "retort.students",
    "Recipe": "retort.trainers.recipe",
    "Student": "retort.students",
    "distill": "retort.workflows",
    "plan_distill": "retort.workflows",
    "plan_train": "retort.workflows",
    "stamp": "retort.workflows",
    "train": "retort.workflows",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import retort` stays fast."""
    if name not in _HOMES:
        msg = f"module 'retort' has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from retort.students.extras import missing

        if (mend := missing(error, f"retort.{name}")) is None:
            raise
        raise ModuleNotFoundError(mend, name=error.name) from error
