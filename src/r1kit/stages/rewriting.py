"""Workings made readable: by rules in the miniature world, by a model elsewhere; and a summary after the thinking.

arXiv 2501.12948 v2, B.3.2: a rewriter refines reasoning and summary, translates what is in another language, and writes
a summary that is faithful to the thinking, adds no step, boxes the answer and is in the question's language (listing
1); trivial questions get a line of thinking (listing 3). The prompts here are our own words.

`RuleRewriter` is no language model. It drops lines that repeat a calculation or say what is not so (a wrong sum; in
countdown also a wrong verdict, or a number that is not given), puts the few marker words of the miniature world into
the question's language, and takes the summary's calculation from the thinking. It never makes up a calculation: every
line of its thinking, and every calculation of its summary, stands in the sample. What it adds are words that the
miniature bases have ids for: a word that has to be spelled is what a small model stumbles over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from r1kit.engines.server import Ask
from r1kit.rewards.answers import ANSWER, END_ANSWER, THINK, final_answer, response, thinking
from r1kit.stages.asking import Answers, json_objects, quoted
from r1kit.stages.readable import NO_THINKING, Claim, claims, false_claims
from r1kit.tasks.examples import with_thinking
from r1kit.types import CountdownGoal, Problem, TextAnswer

AnswerStyle = Literal["boxed", "answer"]

NO_ANSWER, FALSE_STEP, UNSUPPORTED = "no answer", "a wrong calculation it builds on", "an answer its thinking lacks"
NO_REPLY = "no rewrite"
REWRITE_REASONS = (NO_THINKING, NO_ANSWER, FALSE_STEP, UNSUPPORTED, NO_REPLY)
DIRECT_KINDS = ("instruction", "safety", "general")
"""Requests, which are answered directly: short thinking, then the response as it is."""

_LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}
_TO_ENGLISH: tuple[tuple[str, str], ...] = (
    (r"等等，检查 ?", "wait, check "),
    (r"等等，错了", "wait, that is wrong"),
    (r"再试一次", "hmm, try again"),
    (r"换个方法", "but try the other way"),
    (r" ?不对，太大", " no, too big"),
    (r" ?不对，太小", " no, too small"),
    (r" ?不对", " no"),
    (r"(?<=\S) ?对(?=$|[,，])", " yes"),
)
_TO_CHINESE: tuple[tuple[str, str], ...] = (
    (r"wait, check ", "等等，检查 "),
    (r"wait, that is wrong", "等等，错了"),
    (r"hmm, try again|a mistake\? again|retry", "再试一次"),
    (r"but try the other way", "换个方法"),
    (r" no, too big", " 不对，太大"),
    (r" no, too small", " 不对，太小"),
    (r"(?<=\S) no(?=$|[,，])", " 不对"),
    (r"(?<=\S) yes(?=$|[,，])", " 对"),
)
_MARKERS = {
    "en": tuple((re.compile(pattern, re.MULTILINE), word) for pattern, word in _TO_ENGLISH),
    "zh": tuple((re.compile(pattern, re.MULTILINE), word) for pattern, word in _TO_CHINESE),
}
_MUSINGS = frozenset(
    {"hmm, try again", "wait, that is wrong", "but try the other way", "retry", "a mistake? again"}
    | {"再试一次", "等等，错了", "换个方法"}
)
_DENIED = re.compile(r"(?:\bno\b|不对)[^0-9]*$")
_SENTENCE = re.compile(r"(?<=[.?!。？！])\s+|(?<=[。？！])")
_OPTION = re.compile(r"\n\(?A[.)]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A right sample on its way: ``text`` with the tags; ``language``: of the question."""

    problem: Problem
    text: str
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """``text``: ``<think>`` working ``</think>``, blank line, summary."""

    text: str


Outcome = Rewritten | str
"""What was made of a draft, or the reason why nothing was, one of `REWRITE_REASONS`."""


# ------------------------------------------------------------------------------------------ by rules


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRewriter:
    """Rewrites without a model. ``answer_style``: how the summary marks the answer."""

    answer_style: AnswerStyle = "boxed"

    def __call__(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """An outcome per draft, in order."""
        return [self.rewrite(draft) for draft in drafts]

    def rewrite(self, draft: Draft) -> Outcome:
        """One of them."""
        if draft.problem.kind in DIRECT_KINDS:
            return _direct(draft)
        said, answer = thinking(draft.text), final_answer(draft.text)
        if not said or response(draft.text) is None:
            return NO_THINKING
        if not answer:
            return NO_ANSWER
        lines = [line.strip() for line in translated(said, draft.language).split("\n")]
        lines = [line for line in lines if line]
        wrong, built_on = false_claims(lines)
        if built_on and draft.problem.kind != "countdown":
            return FALSE_STEP
        lines = _without_repeats([line for place, line in enumerate(lines) if place not in wrong])
        lines = [line for line in lines if not _contradicts(draft.problem, line)]
        deciding = _deciding_line(draft.problem, lines)
        if deciding is None and _needs_support(draft.problem):
            return UNSUPPORTED
        if not lines:
            return NO_THINKING
        summary = _summary(draft, answer, deciding, self.answer_style)
        return Rewritten(text=with_thinking("\n".join(lines), summary))


def translated(text: str, language: str) -> str:
    """The text with the marker words of the miniature world in the language, "en" or "zh"; in any other as it is."""
    for pattern, word in _MARKERS.get(language, ()):
        text = pattern.sub(word, text)
    return text


def asked(problem: Problem) -> str:
    """What is asked, in a line: the question's last sentence."""
    text = _OPTION.split(problem.text.strip())[0]
    sentences = [part.strip() for part in _SENTENCE.split(text) if part.strip()]
    return sentences[-1] if sentences else text


def _without_repeats(lines: Sequence[str]) -> list[str]:
    """Without lines that repeat an earlier one, as far as they calculate or muse: a bare verdict or an assignment may
    stand twice with good reason."""
    seen: set[str] = set()
    kept = []
    for line in lines:
        repeats = line in seen and (any(claims(line)) or line in _MUSINGS)
        seen.add(line)
        if not repeats:
            kept.append(line)
    return kept


def _contradicts(problem: Problem, line: str) -> bool:
    """Whether a line of a countdown says something untrue: denies the target it has reached, accepts what is not the
    target, takes big for small, or uses a number that is not there (any more)."""
    stated = list(claims(line))
    if not isinstance(problem.gold, CountdownGoal) or not stated:
        return False
    last, target = stated[-1].result, problem.gold.target
    denied = _DENIED.search(line) is not None
    accepted = line.endswith((" yes", " 对"))
    too_big = (line.endswith(("too big", "太大")) and last < target) or (
        line.endswith(("too small", "太小")) and last > target
    )
    verdict = (last == target and denied) or (last != target and accepted) or too_big
    return verdict or not _within(problem.gold.numbers, stated)


def _within(numbers: Sequence[int], stated: Sequence[Claim]) -> bool:
    """Whether every calculation works on numbers that are given, or results before it, each once."""
    left = Counter(numbers)
    for claim in stated:
        used = Counter(int(number) for number in re.findall(r"[0-9]+", claim.left))
        if used - left:
            return False
        left = left - used
        left[claim.result] += 1
    return True


def _wanted(problem: Problem) -> int | None:
    """The whole number that a working must arrive at; None where there is none."""
    if isinstance(problem.gold, CountdownGoal):
        return int(problem.gold.target) if problem.gold.target.denominator == 1 else None
    if problem.kind == "math" and isinstance(problem.gold, TextAnswer) and re.fullmatch(r"-?[0-9]+", problem.gold.text):
        return int(problem.gold.text)
    return None


def _deciding_line(problem: Problem, lines: Sequence[str]) -> str | None:
    """The last line that arrives at the number wanted and is not taken back."""
    wanted = _wanted(problem)
    for line in reversed(lines):
        results = [claim.result for claim in claims(line)]
        if wanted is not None and results and results[-1] == wanted and not _DENIED.search(line):
            return line
        if wanted is not None and re.search(rf"=\s*{wanted}$", line):
            return line
    return None


def _needs_support(problem: Problem) -> bool:
    """Whether a right answer that no line arrives at is a guess: of whole numbers that is plain."""
    return _wanted(problem) is not None


def _summary(draft: Draft, answer: str, deciding: str | None, style: AnswerStyle) -> str:
    if draft.problem.kind == "code":
        return (response(draft.text) or "").strip()
    shown = [f"{claim.left}={claim.result}" for claim in claims(deciding or "")]
    chinese = draft.language == "zh"
    if shown:
        sentence = f"{'，'.join(shown)}。" if chinese else f"{' and '.join(shown)}."
    else:
        sentence = "答：" if chinese else "The answer is:"
    marked = f"{ANSWER}{answer}{END_ANSWER}" if style == "answer" else f"\\boxed{{{answer}}}"
    return f"{sentence}\n{marked}"


def _direct(draft: Draft) -> Outcome:
    """A request: its own short thinking, else the task in a line; then the response as it was."""
    after = response(draft.text)
    answer = (after or "").replace(ANSWER, "").replace(END_ANSWER, "").strip()
    if not answer:
        return NO_ANSWER
    said = thinking(draft.text) if THINK in draft.text else None
    lines = translated(said or asked(draft.problem), draft.language)
    return Rewritten(text=with_thinking(lines, answer))


# ------------------------------------------------------------------------------------------ by a model

REFINE = (
    "You edit the working of somebody who solved a problem. Write it again so that a person likes to read it: in the "
    "first person, as one talks to oneself, in short paragraphs without headings, lists or blocks of code. Begin with "
    "what is asked. Keep every attempt that matters, every check and every change of mind, in their order, and the "
    "answer that they lead to. Add no step and no calculation that is not there. Write all of it in {language}; "
    "translate what is in another language. If the problem is trivial (like 1+1), one line is enough.\n"
    'Reply with one JSON object and nothing else: {{"thinking": "the working"}}'
)
SUMMARISE = (
    "You write the solution that follows a working. Say in a few sentences how the answer comes about: only steps of "
    "the working, nothing new, formulas of the key steps in LaTeX, the final answer once, as {mark}. Do not mention "
    "that there was a working. Write in {language}.\n"
    'Reply with one JSON object and nothing else: {{"summary": "the solution"}}'
)
_MARK = {"boxed": "\\boxed{answer}", "answer": "<answer>answer</answer> at the very end"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRewriter:
    """Rewrites by asking a model: first the thinking, then the summary. ``tries``: of a reply of use."""

    answers: Answers
    answer_style: AnswerStyle = "boxed"
    tries: int = 3

    def __call__(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """An outcome per draft, in order."""
        read_thinking = _reader("thinking")
        refined = self.answers.until([self._refine(draft) for draft in drafts], read_thinking, self.tries)
        asks = [
            self._summarise(draft, text) if text is not None else None
            for draft, text in zip(drafts, refined, strict=True)
        ]
        summaries = iter(self.answers.until([ask for ask in asks if ask], _reader("summary"), self.tries))
        return [NO_REPLY if text is None else _joined(text, next(summaries)) for text in refined]

    def _refine(self, draft: Draft) -> Ask:
        working = thinking(draft.text) or draft.text
        prompt = REFINE.format(language=_LANGUAGE_NAMES.get(draft.language, draft.language))
        answer = final_answer(draft.text) or (response(draft.text) or "").strip()
        return Ask(messages=quoted(prompt, problem=draft.problem.text, working=working, answer=answer))

    def _summarise(self, draft: Draft, working: str) -> Ask:
        language = _LANGUAGE_NAMES.get(draft.language, draft.language)
        prompt = SUMMARISE.format(mark=_MARK[self.answer_style], language=language)
        answer = final_answer(draft.text) or (response(draft.text) or "").strip()
        return Ask(messages=quoted(prompt, problem=draft.problem.text, working=working, answer=answer))


def _joined(working: str, summary: str | None) -> Outcome:
    if summary is None:
        return NO_REPLY
    if any(not claim.right for claim in claims(summary)):
        return FALSE_STEP
    return Rewritten(text=with_thinking(working, summary))


def _reader(name: str) -> Callable[[str], str | None]:
    def read(reply: str) -> str | None:
        return next((text for value in json_objects(reply) if (text := _plain_text(value, name))), None)

    return read


def _plain_text(value: Mapping[str, object], name: str) -> str | None:
    """The text under ``name``; None where there is none, or where it holds tags of its own."""
    text = value.get(name)
    if not isinstance(text, str) or not text.strip() or "think>" in text:
        return None
    return text.strip()
