"""Which of the kept questions near an asked one might answer it, and at what risk."""

from langchain_tokenopt.caches.decision import Neighbour, RiskModel, features
from langchain_tokenopt.caches.likeness import WordWeights, read, veto
from langchain_tokenopt.caches.semantic_questions import Decision

_SAME_WORDS_RISK = 1e-4


def choose(decision: Decision, words: WordWeights, model: RiskModel) -> int:
    """Choose the nearest entry that no rule keeps apart; return how many were kept apart."""
    asked = decision.question.text
    near = [
        Neighbour(entry.question.text, entry.group, similarity)
        for entry, similarity in zip(decision.near, decision.similarities, strict=True)
    ]
    for place, entry in enumerate(decision.near):
        kept = entry.question.text
        if veto(asked, kept) is not None:
            continue
        decision.chosen, decision.similarity = entry, decision.similarities[place]
        decision.x = features(asked, near, place, words)
        same = read(asked).words == read(kept).words
        decision.risk = _SAME_WORDS_RISK if same else model.risk(decision.x, entry=entry.id)
        return place
    return len(near)
