"""A generative judge of answers that no rule decides: is the answer right, given a reference?

The shape is that of arXiv 2501.12948 v2, listing 4, in our own words: an evaluation assistant reads question, reference
and answer, analyses first, and gives JSON with ``analysis`` and ``correctness``. It classifies into two; correct is an
answer that agrees with the reference in reasoning and conclusion, without errors or omissions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from r1kit.engines.server import Ask
from r1kit.stages.asking import Answers, json_objects, quoted

JUDGE = (
    "You check answers. You are given a question, a reference answer that is right, and the answer of somebody else. "
    "Decide whether that answer is correct: it must agree with the reference in its reasoning and in its conclusion, "
    "and hold no error and leave nothing out that was asked for. Other words, another form or another way to the same "
    "conclusion are no fault.\n"
    "First analyse, then decide. Reply with one JSON object and nothing else: "
    '{"analysis": "what you looked at and why", "correctness": "correct" or "incorrect"}'
)
SENSELESS = (
    "no reply of the judge could be read as a verdict: look at its replies in {path}, name a judge that follows "
    "instructions, and remove that file to have the questions asked again"
)
"""What is wrong, and the mend, where all is lost to replies without a verdict."""
LONGEST_ANSWER = 30_000
"""Characters of an answer that a judge reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a judge decides on."""

    question: str
    reference: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge said."""

    correct: bool
    analysis: str


def judge_answers(questions: Sequence[Question], answers: Answers, tries: int = 3) -> list[Judgement | None]:
    """A judgement on each, in order; None where the judge said nothing of use in ``tries`` replies: no verdict,
    which is neither right nor wrong."""
    asks = [
        Ask(
            messages=quoted(
                JUDGE, question=item.question, reference=item.reference, answer=item.answer[:LONGEST_ANSWER]
            )
        )
        for item in questions
    ]
    return answers.until(asks, read_judgement, tries)


def read_judgement(reply: str) -> Judgement | None:
    """The judgement in a reply; None where there is none, or one that says neither."""
    for value in json_objects(reply):
        said = value.get("correctness")
        if isinstance(said, str) and said.strip().lower() in ("correct", "incorrect"):
            return Judgement(correct=said.strip().lower() == "correct", analysis=str(value.get("analysis", "")))
    return None
