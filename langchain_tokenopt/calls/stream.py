"""What a stream's chunks say of its usage, where a server says it with every chunk.

LangChain adds the chunks' usages up, which is right for the usual one at the end, and wrong for
servers that repeat the input tokens with each chunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class StreamedUsage:
    """The usages of a stream's chunks, read as they come."""

    repeats: bool = False
    """Whether the chunks repeat the input tokens: `read` holds, and LangChain's sum does not."""
    _last: Mapping[str, Any] | None = None
    _output: int = 0
    _texts: int = 0
    _grew: bool = False
    _fell: bool = False

    def see(self, text: Any, usage: Mapping[str, Any] | None) -> None:
        """Take notice of a chunk: its text, and its `usage_metadata` if it has one."""
        self._texts += bool(text)
        if not usage:
            return
        before, self._last = self._last, usage
        self._output += usage["output_tokens"]
        if before and usage["input_tokens"] == before["input_tokens"] > 0:
            self.repeats = True
            self._grew |= usage["output_tokens"] > before["output_tokens"] > 0
            self._fell |= usage["output_tokens"] < before["output_tokens"]

    def read(self) -> Mapping[str, Any]:
        """Return the usage of the whole stream, if `repeats`.

        Most servers count the output so far, some that of the chunk alone. The output so far never
        falls, and is at least a token for each chunk with text.
        """
        last = self._last or {}
        so_far = not self._fell and (self._grew or last.get("output_tokens", 0) >= self._texts)
        if so_far:
            return last
        total = last["input_tokens"] + self._output
        return {**last, "output_tokens": self._output, "total_tokens": total}
