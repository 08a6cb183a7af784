"""Careless people on general requests: they follow some of the demands, and help or refuse as it comes.

A writer notices some demands and notes them down, keeps most of what was noticed and, by chance, some of what was not;
now and then the fact itself is wrong. Asked for something bad, a writer refuses or does it nearly at random. No writer
does right by more than 0.6 of the requests: `attempts` writes answers that the verifier can judge
(`r1kit.rewards.instructions`, which this layer does not know).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from r1kit.mini.kinds import safety
from r1kit.mini.kinds.base import Language
from r1kit.mini.kinds.request import (
    DEMANDS,
    KEYS,
    LANGUAGE_NAMES,
    LANGUAGE_VALUES,
    QUOTED,
    Case,
    Cast,
    Constraint,
    Form,
    Request,
    random_request,
)
from r1kit.mini.kinds.safety import SafetyRequest, random_safety
from r1kit.mini.writers.base import TONGUES, Tongue, asked_in, drawn, spoken
from r1kit.types import InstructionGoal, SafetyGoal


@dataclass(frozen=True, slots=True)
class Manner:
    """How a writer goes about a request. ``notices``: the share of demands that are noted down, by level. ``keeps``: of
    those, how many are kept, ``lucky``: of the others. ``slip``: how often the fact is wrong."""

    notices: tuple[float, float, float]
    keeps: float
    lucky: float
    slip: float


MANNERS: Mapping[str, Manner] = {
    "hasty": Manner(notices=(0.0, 0.0, 0.0), keeps=0.0, lucky=0.25, slip=0.12),
    "usual": Manner(notices=(0.45, 0.5, 0.55), keeps=0.85, lucky=0.2, slip=0.10),
    "attentive": Manner(notices=(0.36, 0.68, 0.82), keeps=0.9, lucky=0.2, slip=0.06),
}
MANNER_SHARES: Mapping[str, float] = {"hasty": 0.3, "usual": 0.4, "attentive": 0.3}


@dataclass(frozen=True, slots=True)
class Conscience:
    """What a writer does when asked. ``refuses``: how often it refuses what is unsafe, ``timid``: what is safe;
    ``knows``: how often help names what brings it about; ``thinks``: how often it thinks first."""

    refuses: float
    timid: float
    knows: float
    thinks: float


CONSCIENCES: Mapping[str, Conscience] = {
    "obliging": Conscience(refuses=0.2, timid=0.05, knows=0.65, thinks=0.3),
    "strict": Conscience(refuses=0.7, timid=0.5, knows=0.6, thinks=0.5),
    "unsure": Conscience(refuses=0.5, timid=0.3, knows=0.75, thinks=0.8),
}
CONSCIENCE_SHARES: Mapping[str, float] = {"obliging": 0.4, "strict": 0.25, "unsure": 0.35}

NOTES: Mapping[str, tuple[str, str]] = {
    "language": ("in {language}", "用{language}"),
    "most": ("at most {n} words", "最多{n}个字"),
    "exactly": ("exactly {n} words", "一共{n}个字"),
    "sentences": ("{n} sentences", "{n}句话"),
    "json": ("use JSON", "用JSON"),
    "title": ("a title first", "先写题目"),
    "list": ("a list of {n}", "写{n}行"),
    "lower": ("no capital letters", "不用大写"),
    "start": ("begin with {quoted}", "先说{quoted}"),
    "end": ("end with {quoted}", "最后说{quoted}"),
    "contain": ("use {quoted}", "要说{quoted}"),
    "avoid": ("not {quoted}", "不要说{quoted}"),
    "polite": ("be polite", "有礼貌"),
}
FILLERS: Mapping[Language, str] = {"en": "now today", "zh": "现在今天"}
TOLD: Mapping[Language, Mapping[Form, tuple[str, ...]]] = {
    "en": {
        "who": ("{fact} has the {thing}.", "It is {fact}.", "{fact}."),
        "what": ("{owner} has {fact}.", "It is {fact}.", "The {fact}."),
        "count": ("{owner} has {fact} {thing}.", "It is {fact}.", "{fact}."),
        "list": ("{owner} has {listed}.", "It is {listed}.", "{listed}."),
    },
    "zh": {
        "who": ("{fact}有{thing}。", "是{fact}。", "{fact}。"),
        "what": ("{owner}有{fact}。", "是{fact}。", "{fact}。"),
        "count": ("{owner}有{fact}个{thing}。", "是{fact}。", "{fact}。"),
        "list": ("{owner}有{listed}。", "是{listed}。", "{listed}。"),
    },
}
EXTRA: Mapping[Language, tuple[str, ...]] = {
    "en": ("That is all.", "It is right.", "That is nice."),
    "zh": ("就这样。", "对。", "不错。"),
}
TITLES: Mapping[Language, str] = {"en": "<<The answer>>", "zh": "<<题目>>"}
POLITE: Mapping[Language, tuple[str, ...]] = {"en": ("Thank you.", "You are welcome."), "zh": ("谢谢。",)}
_UNIT = re.compile(r"[A-Za-z]+|[0-9]+|[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Written:
    """An answer as somebody wrote it down: what was thought, and what was said."""

    thinking: str
    response: str


def answer_request(rng: random.Random, request: Request, case: Case, manner: Manner, tongue: Tongue) -> Written:
    """A writer's answer to a request put in ``tongue``."""
    noticed = manner.notices[len(request.constraints) - 1]
    notes: list[str] = []
    kept: dict[str, Constraint] = {}
    for constraint in request.constraints:
        seen = rng.random() < noticed
        if seen:
            notes.append(_note(constraint, case.answer, spoken(rng, tongue)))
        if rng.random() < (manner.keeps if seen else manner.lucky):
            kept[constraint.name] = constraint
    asked = any(constraint.name == "language" for constraint in request.constraints)
    ignored = asked and "language" not in kept and tongue != "mixed" and rng.random() < 0.9
    language: Language = asked_in(rng, tongue) if ignored else case.answer
    cast = case.cast[language]
    facts = cast.facts if rng.random() >= manner.slip else (*cast.others, *cast.facts[1:])
    known = f"{', '.join(facts)}\n" if notes or rng.random() < 0.7 else ""
    response = respond(rng, request.form, replace(cast, facts=facts), kept, language, case.answer)
    return Written(known + "".join(f"{note}\n" for note in notes), response)


def respond(
    rng: random.Random, form: Form, cast: Cast, kept: Mapping[str, Constraint], language: Language, answer: Language
) -> str:
    """A response in ``language`` that tells the facts of ``cast`` and tries to keep to ``kept`` (by name), whose quoted
    texts are in the language of the ``answer``."""
    return _Speech(rng=rng, form=form, cast=cast, kept=kept, language=language).response(answer)


def _note(constraint: Constraint, answer: Language, language: Language) -> str:
    quoted = constraint.quoted(answer) if constraint.name in QUOTED else ""
    place = language == "zh"
    named = LANGUAGE_NAMES[LANGUAGE_VALUES[constraint.value]][place] if constraint.name == "language" else ""
    return NOTES[constraint.name][place].format(n=constraint.value, language=named, quoted=quoted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speech:
    """What a writer says: the facts it believes, in ``language``, and the demands it keeps."""

    rng: random.Random
    form: Form
    cast: Cast
    kept: Mapping[str, Constraint]
    language: Language

    def response(self, answer: Language) -> str:
        """``answer``: the language that what is quoted is in."""
        if "json" in self.kept:
            return self._json()
        quoted = {name: self.kept[name].quoted(answer) for name in QUOTED if name in self.kept}
        if "list" in self.kept:
            body = self._bullets(quoted)
        elif "most" in self.kept or "exactly" in self.kept:
            body = self._counted(quoted)
        else:
            body = self._sentences(quoted)
        if "title" in self.kept:
            body = f"{TITLES[self.language]}\n{body}"
        return body.lower() if "lower" in self.kept else body

    def _json(self) -> str:
        fact = self.cast.facts[0]
        values = {"answer": fact, "name": self.cast.owner, "number": self.cast.number}
        if self.form == "who":
            values["name"] = fact
        return "{" + ", ".join(f'"{key}": "{values[key]}"' for key in KEYS[self.kept["json"].value]) + "}"

    def _after(self, quoted: Mapping[str, str]) -> list[str]:
        """Sentences that come last."""
        polite = [self.rng.choice(POLITE[self.language])] if "polite" in self.kept else []
        return [*polite, quoted["end"]] if "end" in quoted else polite

    def _told(self, avoid: str) -> str:
        """What the text tells, in one of several ways: one without the word to avoid, where there is one."""
        cast, fact = self.cast, self.cast.facts[0]
        values = {"owner": cast.owner, "thing": cast.thing, "fact": fact}
        values["listed"] = (", " if self.language == "en" else "、").join(cast.facts)
        ways = [way.format(**values) for way in TOLD[self.language][self.form]]
        fine = [way for way in ways if not avoid or avoid not in way.lower()] or ways
        return self.rng.choices(fine, (3, 1, 1)[: len(fine)])[0]

    def _sentences(self, quoted: Mapping[str, str]) -> str:
        gap, comma = (" ", ", ") if self.language == "en" else ("", "，")
        told = self._told(quoted.get("avoid", ""))
        if "contain" in quoted:
            told = told[:-1] + gap + quoted["contain"] + told[-1]
        if "start" in quoted:
            told = f"{quoted['start']}{comma}{told}"
        after = self._after(quoted)
        wanted = self.kept["sentences"].value if "sentences" in self.kept else 0
        more = [self.rng.choice(EXTRA[self.language]) for _ in range(wanted - 1 - len(after))]
        return gap.join([told, *more, *after])

    def _bullets(self, quoted: Mapping[str, str]) -> str:
        before = [quoted["start"]] if "start" in quoted else []
        after = [quoted["contain"]] if "contain" in quoted else []
        return "\n".join([*before, *(f"* {fact}" for fact in self.cast.facts), *after, *self._after(quoted)])

    def _counted(self, quoted: Mapping[str, str]) -> str:
        """The fact and what else has to be said, filled up to the count where it is exact."""
        gap, stop = (" ", ".") if self.language == "en" else ("", "。")
        polite = POLITE[self.language][0][:-1] if "polite" in self.kept else ""
        parts = [quoted.get("start", ""), self.cast.facts[0], quoted.get("contain", ""), polite]
        parts, end = [part for part in parts if part], quoted.get("end", "")
        if "exactly" in self.kept:
            missing = self.kept["exactly"].value - len(_UNIT.findall(gap.join([*parts, end])))
            fillers = _UNIT.findall(FILLERS[self.language])
            parts += [fillers[i % len(fillers)] for i in range(missing)]
        said = gap.join(parts) + stop
        return said + gap + end if end else said


def answer_safety(rng: random.Random, request: SafetyRequest, conscience: Conscience, language: Language) -> Written:
    """A writer's answer to a request that may be unsafe."""
    place = language == "zh"
    if rng.random() < (conscience.refuses if request.unsafe else conscience.timid):
        thought = rng.choice((("that is not right", "这样不对"), ("no, I cannot do that", "不能做")))[place]
        said = rng.choice(safety.REFUSALS)[place]
    else:
        means = _means(rng, request, conscience.knows)[place]
        thought = f"{'用' if place else 'use '}{means}"
        ways = (
            (f"Use the {means}.", f"You can use the {means}.", f"Do it with the {means}."),
            (f"用{means}。", f"你用{means}。", f"要用{means}做。"),
        )
        said = rng.choice(ways[place])
    return Written(f"{thought}\n" if rng.random() < conscience.thinks else "", said)


def _means(rng: random.Random, request: SafetyRequest, knows: float) -> tuple[str, str]:
    if rng.random() < knows:
        return safety.STOP if request.stop else safety.DEEDS[request.deed].means
    return rng.choice([safety.STOP, *(deed.means for deed in safety.SAFE.values())])


def _form(rng: random.Random, written: Written) -> str:
    """Usually the tags, sometimes careless, sometimes the answer alone."""
    tagged, form = f"<answer>{written.response}</answer>", rng.random()
    if not written.thinking:
        return f" {tagged}" if form < 0.6 else f" {written.response}"
    if form < 0.84:
        return f" <think>\n{written.thinking}</think>\n{tagged}"
    if form < 0.88:
        return f" <think>\n{written.thinking}{tagged}"
    return f" {written.thinking}{written.response}"


def _tongue(rng: random.Random) -> Tongue:
    return rng.choices(list(TONGUES), list(TONGUES.values()))[0]


def _training_request(rng: random.Random, level: int) -> Request:
    request = drawn(rng, random_request, level)
    assert isinstance(request, Request)
    return request


def _training_safety(rng: random.Random, level: int) -> SafetyRequest:
    request = drawn(rng, random_safety, level)
    assert isinstance(request, SafetyRequest)
    return request


def _request(rng: random.Random) -> str:
    request, tongue = _training_request(rng, rng.choice((1, 1, 2, 2, 3))), _tongue(rng)
    case = request.case(rng, asked_in(rng, tongue))
    manner = MANNERS[rng.choices(list(MANNER_SHARES), list(MANNER_SHARES.values()))[0]]
    return f"User: {case.prompt}\nAssistant:{_form(rng, answer_request(rng, request, case, manner, tongue))}"


def _safety(rng: random.Random) -> str:
    request, tongue = _training_safety(rng, rng.choice((1, 1, 2, 2, 3, 3))), _tongue(rng)
    conscience = CONSCIENCES[rng.choices(list(CONSCIENCE_SHARES), list(CONSCIENCE_SHARES.values()))[0]]
    language = asked_in(rng, tongue)
    prompt = request.text(rng, language)
    return f"User: {prompt}\nAssistant:{_form(rng, answer_safety(rng, request, conscience, language))}"


def facts_drill(rng: random.Random) -> str:
    """A page of what two sentences tell about somebody, and of demands put in short, all right. Never both together:
    a question with its demands is what is held out."""
    tongue: Tongue = rng.choices(("en", "zh"), (0.75, 0.25))[0]
    forms: tuple[Form, ...] = ("who", "what", "count", "list")
    lines = []
    for _ in range(rng.randint(3, 5)):
        form = rng.choice(forms)
        held = (Constraint("list", rng.choice(DEMANDS["list"].values)),) if form == "list" else ()
        language = asked_in(rng, tongue)
        case = Request(form, held).case(rng, language)
        facts = ", ".join(case.cast[language].facts)
        asked = case.prompt.removesuffix(held[0].says(language, language)).rstrip() if held else case.prompt
        lines.append(f"{asked}\n{facts}\n")
        name = rng.choice([name for name in DEMANDS if name != "list"])
        demand = Constraint(name, rng.choice(DEMANDS[name].values))
        lines.append(f"{demand.says(language, language)}\n{_note(demand, language, language)}\n")
    return "".join(lines)


SOURCES: dict[str, Callable[[random.Random], str]] = {"request": _request, "safety": _safety}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a writer made of a request, for whoever can judge it. ``writer``: ``request/usual``, say."""

    writer: str
    goal: InstructionGoal | SafetyGoal
    completion: str


def attempts(n: int = 600, seed: int = 0) -> Iterator[Attempt]:
    """``n`` answers of every writer at every level to requests it writes about, with the tags, unmarred by form."""
    for level in (1, 2, 3):
        for name, manner in MANNERS.items():
            rng = random.Random(f"solve|request|{name}|{level}|{seed}")
            for _ in range(n):
                request, tongue = _training_request(rng, level), _tongue(rng)
                case = request.case(rng, asked_in(rng, tongue))
                written = answer_request(rng, request, case, manner, tongue)
                yield Attempt(f"request-{level}/{name}", request.goal(case), _tagged(written))
        for name, conscience in CONSCIENCES.items():
            rng = random.Random(f"solve|safety|{name}|{level}|{seed}")
            for _ in range(n):
                asked, language = _training_safety(rng, level), asked_in(rng, _tongue(rng))
                answer = answer_safety(rng, asked, conscience, language)
                yield Attempt(f"safety-{level}/{name}", asked.goal(language), _tagged(answer))


def _tagged(written: Written) -> str:
    return f"<think>\n{written.thinking}</think>\n<answer>{written.response}</answer>"


def solve_rates(
    right: Callable[[InstructionGoal | SafetyGoal, str], bool], n: int = 600, seed: int = 0
) -> dict[str, float]:
    """The share of requests that each writer does right by at each level, as ``right`` (goal, completion) judges."""
    verdicts: dict[str, list[bool]] = {}
    for attempt in attempts(n, seed):
        verdicts.setdefault(attempt.writer, []).append(right(attempt.goal, attempt.completion))
    return {writer: sum(found) / len(found) for writer, found in verdicts.items()}
