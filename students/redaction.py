# SPDX-FileCopyrightText: 2026-present retort contributors
#
# SPDX-License-Identifier: Apache-2.0
"""Secrets are taken out of whatever is written down or printed: recipes, manifests, reports, logs, messages."""

import os
import re
from typing import Any

REDACTED = "***"

# Names of parameters and headers whose values are secrets. `pad_token` and `max_tokens` are none, nor are the names of
# environment variables, such as `api_key_env_var`.
_SECRET = re.compile(
    r"(.*[_-])?(api[_-]?key|apikey|password|passwd|passphrase|pwd|secret([_-]?(access)?[_-]?key)?|authorization|"
    r"credentials?|cookies?|private[_-]?key|account[_-]?key|auth)|"
    r"(.*[_-])?(ad|api|access|auth|bearer|client|github|hf|hub|id|refresh|security|session)[_-]?token|token",
    re.IGNORECASE,
)
_HEADERS = re.compile(r"(.*[_-])?headers?", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^\s/?#\"'<>]*@")  # of a URL, with or without a password
_QUERY = re.compile(rf"([?&](?:{_SECRET.pattern}|key|sig|signature)=)[^\s&#\"'<>]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer|Basic) +(?=[^\s\"']*\d)[\w.~+/=-]{8,}", re.IGNORECASE)


_SHORTEST = 8  # characters of a secret in the environment: a shorter one may be part of any text


def redacted(value: Any, *, secret: bool = False) -> Any:
    """
    Return a value with `***` in the place of secrets; all else is as it was.

    Secrets are passwords and users in URLs, values of headers, and values of parameters that are named after them, such
    as `api_key`. What Haystack writes of a `Secret` from the environment is none, as it names the variable alone; but
    what such a variable holds is one wherever it stands: servers repeat keys that they refuse.

    ### Usage example

    ```python
    from retort.students.redaction import redacted

    redacted({"url": "https://me:word@host/v1", "headers": {"x": "y"}, "top_k": 5})
    # {"url": "https://***@host/v1", "headers": {"x": "***"}, "top_k": 5}
    ```

    :param value:
        Text, such as a message; or plain values, such as parameters, at any depth.
    :param secret:
        Whether all text and numbers in it are secrets.
    """
    if isinstance(value, dict):
        if value.get("type") == "env_var":
            return value
        own = {key: secret or bool(_SECRET.fullmatch(str(key)) or _HEADERS.fullmatch(str(key))) for key in value}
        return {key: redacted(item, secret=own[key]) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, secret=secret) for item in value]
    if isinstance(value, str):
        shown = _QUERY.sub(rf"\1{REDACTED}", _USER.sub(f"{REDACTED}@", value))
        for held in _in_environment():
            shown = shown.replace(held, REDACTED)
        return REDACTED if secret and value else _BEARER.sub(rf"\1 {REDACTED}", shown)
    return REDACTED if secret and isinstance(value, int | float) and not isinstance(value, bool) else value


def _in_environment() -> list[str]:
    """List the secrets of the environment; folders, such as PWD's, and files are none."""
    named = [held for name, held in os.environ.items() if _SECRET.fullmatch(name) or name.endswith("_TOKEN")]
    return [held for held in named if len(held) >= _SHORTEST and not os.path.isabs(held)]
