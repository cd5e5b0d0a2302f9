"""The scripts that run inside Redis, loaded by name.

A script may say `local counter = require("counter")`, as Lua does. Redis has no `require`: the text of
`modules/counter.lua` is put in its place here, wrapped in a function, so that linters and readers see plain Lua.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

_REQUIRE = re.compile(r'^(local \w+ = )require\("(\w+)"\)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script's name, its text as Redis gets it, and the SHA-1 (hexadecimal) by which Redis knows it."""

    name: str
    text: str
    sha: str


def load(name: str) -> Script:
    """The script in `<name>.lua`, with the modules it requires. Raises FileNotFoundError."""
    folder = files(__name__)

    def inline(found: re.Match[str]) -> str:
        module = (folder / "modules" / f"{found[2]}.lua").read_text(encoding="utf-8")
        return f"{found[1]}(function()\n{module}end)()"

    text = _REQUIRE.sub(inline, (folder / f"{name}.lua").read_text(encoding="utf-8"))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
