"""How relevant texts are to a question: by words in common, and by embeddings where there are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings

from langchain_tokenopt.prompts.context_memory import Remembered
from langchain_tokenopt.prompts.context_needs import Embed, Failed, Steps
from langchain_tokenopt.prompts.context_strategy import CommonWords

_MOST_VECTORS = 20_000
# Longer texts are embedded by their start: models read no more.
_LONGEST = 2_000


class Relevance:
    """Says how relevant texts are to a question, from 0 to 1.

    Args:
        embeddings: Each text is embedded once while it is among the last thousands; `None` for
            words alone.
    """

    def __init__(self, embeddings: Embeddings | None) -> None:
        self._embeddings = embeddings
        self._vectors: Remembered[str, Any] = Remembered(_MOST_VECTORS)

    def of(
        self, question: str, texts: Sequence[str], words: CommonWords | None = None
    ) -> Steps[tuple[list[float], Failed | None]]:
        """Return the relevance of each text, and what went wrong: then it is by words.

        Args:
            question: What is asked.
            texts: What may answer it.
            words: Of the texts, if they were read before.
        """
        alike = (words or CommonWords(texts)).shares(question)
        if self._embeddings is None or not texts or not question.strip():
            return alike, None
        cut = [text[:_LONGEST] for text in (question, *texts)]
        missing = self._vectors.without(cut)
        if missing:
            made = yield Embed(self._embeddings, missing)
            if isinstance(made, Failed):
                return alike, made
            for text, vector in zip(missing, made, strict=False):
                array = np.asarray(vector, dtype=np.float32)
                self._vectors.put(text, array / max(float(np.linalg.norm(array)), 1e-12))
        vectors = [self._vectors.get(text) for text in cut]
        asked = vectors[0]
        return [
            (word + self._cosine(asked, vector)) / 2
            for word, vector in zip(alike, vectors[1:], strict=True)
        ], None

    @staticmethod
    def _cosine(one: Any, other: Any) -> float:
        if one is None or other is None or one.shape != other.shape:
            return 0.0
        cosine = float(one @ other)
        return min(max(cosine, 0.0), 1.0) if np.isfinite(cosine) else 0.0
