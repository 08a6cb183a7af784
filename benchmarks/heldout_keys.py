"""The keys of the miniature world's problems, read off their texts by readers written apart from the generators.

Nothing of r1kit is imported. The sentences, the names and the way a key is spelled stand here once more, so that a key
that a generator makes and one that is read off its text can disagree. The only thing that is handed in is the list of
inputs on which small functions are compared, which is part of that key's definition.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations
from typing import Any

HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Found:
    """A problem in a text: its kind (``countdown``, ``word``, ``zebra`` ...) and its key."""

    kind: str
    key: str


@cache
def held_out(key: str) -> bool:
    """The rule as the documentation has it: one key in eight, by BLAKE2b of the key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little") % 8 == 0


# -- numbers

NUMBERS = (
    re.compile(r"Using the numbers \[([\d, ]+)\], create an equation that equals \d+\."),
    re.compile(r"Use ([\d, ]+ and \d+) to make \d+\."),
    re.compile(r"用 ([\d、]+) 得到 \d+。"),
)
VALUE = re.compile(r"(?:What is )?([\d+*/()-]+)(?:\?|=\?| 等于多少？)")
EXPRESSION = re.compile(r"[\d(][\d+*/()-]*[+*/-][\d+*/()-]*\d\)?")
NUMBER = re.compile(r"\d+")


def of_numbers(text: str) -> str:
    return ",".join(map(str, sorted(map(int, NUMBER.findall(text)))))


def _numbers(text: str) -> Found | None:
    for pattern in NUMBERS:
        if found := pattern.fullmatch(text):
            return Found("countdown", of_numbers(found[1]))
    found = VALUE.fullmatch(text)
    return Found("arithmetic", of_numbers(found[1])) if found else None


def expressions(text: str) -> Iterator[str]:
    """The keys of all expressions of three or more numbers in a text."""
    for found in EXPRESSION.findall(text):
        if len(NUMBER.findall(found)) >= 3:
            yield of_numbers(found)


# -- equations

EQUATION = re.compile(r"[\dxyzn()+-]*[xyzn][\dxyzn()+-]*=[\dxyzn()+-]+")
SOLVE = re.compile(r"Solve .* for |Find \w: |What is \w if |解方程|已知|若")


def _equation(text: str) -> Found | None:
    found = EQUATION.search(text)
    if found is None or not SOLVE.match(text):
        return None
    return Found("equation", "equation:" + re.sub("[yzn]", "x", found[0]))


# -- stories

ONE = r"(?:[A-Z][a-z]+|小.)"


class _Story:
    """What a story has come to: the number it is at, the one it began with, and the calculations."""

    def __init__(self) -> None:
        self.now = self.first = self.price = 0
        self.steps: list[str] = []

    def own(self, n: int) -> None:
        self.now = self.first = n

    def step(self, left: int, op: str, right: int) -> None:
        pair = sorted((left, right)) if op in "+*" else (left, right)
        self.steps.append(f"{pair[0]}{op}{pair[1]}")
        self.now = {"+": left + right, "-": left - right, "*": left * right, "/": left // max(1, right)}[op]

    def costs(self, n: int) -> None:
        self.price = n

    def together(self) -> None:
        self.step(self.first, "+", self.now)

    def left_together(self, n: int) -> None:
        self.together()
        self.step(self.now, "-", n)


def _nothing(story: _Story, *numbers: int) -> None:
    """A sentence that asks or tells nothing new."""


def _go_on(op: str) -> Callable[..., None]:
    return lambda story, n: story.step(story.now, op, n)


def _of_first(op: str) -> Callable[..., None]:
    return lambda story, n: story.step(story.first, op, n)


def _whole(story: _Story, n: int) -> None:
    story.step(n, "-", story.now)


def _each(story: _Story, a: int, b: int) -> None:
    story.step(a, "*", b)


# tried in this order: what is bought more stands before what is bought at a price
SENTENCES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    (r"{A} (?:buys|finds) (\d+) more|{A} gets (\d+) more from {A}|Then {A} wins (\d+)",
     r"{A}又(?:买了|找到)(\d+).|{A}又给了{A}(\d+).|然后{A}赢了(\d+).", _go_on("+")),
    (r"{A} gives (\d+) to {A}|{A} (?:loses|sells) (\d+)|Then {A} takes (\d+) of them",
     r"{A}给了{A}(\d+).|{A}(?:丢|卖)了(\d+).|然后{A}拿走(\d+).", _go_on("-")),
    (r"Then there are (\d+) times as many|{A} makes it (\d+) times as many",
     r"然后数量变成原来的(\d+)倍|{A}把数量变成原来的(\d+)倍", _go_on("*")),
    (r"{A} puts them into (\d+) bags, the same in each|{A} gives them to (\d+) friends, the same to each",
     r"{A}把它们平均放进(\d+)个袋子|{A}把它们平均分给(\d+)个朋友", _go_on("/")),
    (r"{A} has (\d+) boxes with (\d+) \w+ each|{A} gets (\d+) \w+ a day for (\d+) days",
     r"{A}有(\d+)个盒子，每个盒子里有(\d+).+|{A}每天得到(\d+).+，一共(\d+)天", _each),
    (r"{A} reads (\d+) pages a day for (\d+) days", r"{A}每天读(\d+)页书，读了(\d+)天", _each),
    (r"{A} has (\d+) more than {A}", r"{A}比{A}多(\d+).", _of_first("+")),
    (r"{A} has (\d+) fewer than {A}", r"{A}比{A}少(\d+).", _of_first("-")),
    (r"{A} has (\d+) times as many as {A}", r"{A}的.+是{A}的(\d+)倍", _of_first("*")),
    (r"How many do they have together", r"他们一共有多少", lambda story: story.together()),
    (r"Together they give away (\d+)", r"他们一共送走(\d+).", lambda story, n: story.left_together(n)),
    (r"{A} has (\d+) dollars|The way is (\d+) km|The book has (\d+) pages",
     r"{A}有(\d+)元|全程(\d+)公里|这本书有(\d+)页", _whole),
    (r"{A} also pays (\d+) dollars for a bag|Then it goes (\d+) km more|Then {A} reads (\d+) pages more",
     r"{A}还花(\d+)元买了一个袋子|然后又走(\d+)公里|然后{A}又读(\d+)页", _go_on("+")),
    (r"One \w+ costs (\d+) dollars|A bus goes (\d+) km in one hour", r"一.+?(\d+)元", lambda story, n: story.costs(n)),
    (r"{A} buys (\d+)|It goes for (\d+) hours", r"{A}买了(\d+).+", lambda story, n: story.step(story.price, "*", n)),
    (r"(?!)", r"公共汽车一小时走(\d+)公里，走了(\d+)小时", _each),
    (r"{A} has (\d+) \w+|There are (\d+) \w+ in the bag of {A}", r"{A}有(\d+).+|{A}的袋子里有(\d+).+",
     lambda story, n: story.own(n)),
    (r"How (?:many|far) .+", r".*(?:多少|每人得到多少).*", _nothing),
)  # fmt: skip


@cache
def _sentences(chinese: bool) -> list[tuple[re.Pattern[str], Callable[..., None]]]:
    return [(re.compile((zh if chinese else en).replace("{A}", ONE)), act) for en, zh, act in SENTENCES]


def _word(text: str) -> Found | None:
    """A story, sentence by sentence; None where one of them is in no story."""
    chinese = HAN.search(text) is not None
    story = _Story()
    for sentence in re.split(r"[.?。？]\s*", text):
        if sentence and not _told(story, sentence, chinese):
            return None
    return Found("word", "word:" + ";".join(story.steps)) if story.steps else None


def _told(story: _Story, sentence: str, chinese: bool) -> bool:
    for pattern, act in _sentences(chinese):
        if found := pattern.fullmatch(sentence):
            act(story, *(int(n) for n in found.groups() if n is not None))
            return True
    return False


# -- choices

OPTION = re.compile(r"[A-F]\. (.+)")
OF_OPTIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Which is the largest\?|哪个最大？"), "largest"),
    (re.compile(r"Which is the smallest\?|哪个最小？"), "smallest"),
    (re.compile(r"Which number can be divided by (\d+)\?|哪个数能被(\d+)整除？"), "divided by"),
    (re.compile(r"Which equals (\d+)\?|哪个等于(\d+)？"), "equals"),
)


def _choice(text: str) -> Found | None:
    question, *lines = text.split("\n")
    options = [found[1] for line in lines if (found := OPTION.fullmatch(line))]
    if len(options) < len(lines) or len(options) < 4:
        return None
    for pattern, name in OF_OPTIONS:
        if found := pattern.fullmatch(question):
            asked = " ".join([name, *(n for n in found.groups() if n)])
            return Found("choice", f"choice:{asked}:{','.join(sorted(options))}")
    asked_elsewhere = _numbers(question) or _word(question)
    return Found("choice", asked_elsewhere.key) if asked_elsewhere else None


# -- knights and knaves

CLAIMS: tuple[tuple[str, str, str], ...] = (
    ("both knaves", r"(\w+) and I are both knaves", r"(小.)和我都是无赖"),
    ("a knave", r"at least one of (\w+) and me is a knave", r"(小.)和我至少有一个是无赖"),
    ("a knight", r"at least one of (\w+) and me is a knight", r"(小.)和我至少有一个是骑士"),
    ("same", r"(\w+) and I are the same", r"(小.)和我是同一种人"),
    ("different", r"(\w+) and I are different", r"(小.)和我不是同一种人"),
    ("two same", r"(\w+) and (\w+) are the same", r"(小.)和(小.)是同一种人"),
    ("two different", r"(\w+) and (\w+) are different", r"(小.)和(小.)不是同一种人"),
    ("knight", r"(\w+) is a knight", r"(小.)是骑士"),
    ("knave", r"(\w+) is a knave", r"(小.)是无赖"),
)
CLAIM_PATTERNS = [(name, re.compile(f"{en}|{zh}")) for name, en, zh in CLAIMS]
SAYS = re.compile(r"(\w+) says: ([^.]+)\.|(小.)说：([^。]+)。")


def _knights(text: str) -> Found | None:
    said = [(a or c, b or d) for a, b, c, d in SAYS.findall(text)]
    people = [speaker for speaker, _ in said]
    claims = []
    for speaker, what in said:
        claim = next(((name, found) for name, p in CLAIM_PATTERNS if (found := p.fullmatch(what))), None)
        if claim is None:
            return None
        claims.append((people.index(speaker), claim[0], [people.index(n) for n in claim[1].groups() if n]))
    forms = (
        sorted((order[who], claim, tuple(sorted(order[other] for other in others))) for who, claim, others in claims)
        for order in permutations(range(len(people)))
    )
    told = (f"{who} {claim} {','.join(map(str, others))}" for who, claim, others in min(forms))
    return Found("knights", f"knights:{len(people)}:{';'.join(told)}")


# -- orders

NAMES = ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jim", "Kay", "Leo"]
CHINESE_NAMES = ["小安", "小宝", "小春", "小丹", "小红", "小芳", "小刚", "小海", "小兰", "小明", "小康", "小力"]
PEOPLE = {name: place for names in (NAMES, CHINESE_NAMES) for place, name in enumerate(names)}
MORE = {"taller", "older", "faster", "heavier", "高", "大", "快", "重"}
COMPARED = re.compile(r"(\w+) is (\w+) than (\w+)(?: but (\w+) than (\w+))?\.|(小.)比(小.)(.)(?:，但是比(小.)(.))?。")


def _order(text: str) -> Found | None:
    higher: dict[str, set[str]] = {}
    for a, more, b, other, c, zh_a, zh_b, zh_more, zh_c, zh_other in COMPARED.findall(text):
        subject = a or zh_a
        for name, scale in ((b or zh_b, more or zh_more), (c or zh_c, other or zh_other)):
            if name:
                high, low = (subject, name) if scale in MORE else (name, subject)
                higher.setdefault(low, set()).add(high)
                higher.setdefault(high, set())
    ranking: list[str] = []
    while len(ranking) < len(higher):
        tops = [name for name in higher if name not in ranking and higher[name] <= {*ranking}]
        if len(tops) != 1:
            return None
        ranking += tops
    return Found("order", "order:" + ">".join(NAMES[PEOPLE[name]] for name in ranking)) if ranking else None


# -- zebra puzzles

THINGS = {
    "猫": "cat", "狗": "dog", "鱼": "fish", "鸟": "bird", "茶": "tea", "奶": "milk", "汁": "juice", "水": "water",
    "梨": "pear", "李": "plum", "桃": "peach", "杏": "apricot", "松": "pine", "柳": "willow", "枫": "maple",
    "杨": "poplar",
}  # fmt: skip
CLUES = (
    (re.compile(r"The (\w+) is in house (\d)|(.)在(\d)号房"), "in"),
    (re.compile(r"The (\w+) is not in house (\d)|(.)不在(\d)号房"), "not in"),
    (re.compile(r"The (\w+) is with the (\w+)|(.)和(.)在一起"), "with"),
    (re.compile(r"The (\w+) is not with the (\w+)|(.)和(.)不在一起"), "apart"),
    (re.compile(r"The (\w+) is left of the (\w+)|(.)在(.)的左边"), "left"),
)


def _zebra(text: str) -> Found | None:
    # "Houses 1, 2 stand from left to right. Each has one ...", the clues, "What is in each house?"
    sentences = [sentence for sentence in re.split(r"[.?。？]\s*", text) if sentence]
    clues = []
    for sentence in sentences[2:-1]:
        clue = next(((form, found) for p, form in CLUES if (found := p.fullmatch(sentence))), None)
        if clue is None:
            return None
        form, (a, b) = clue[0], [THINGS.get(word, word) for word in clue[1].groups() if word]
        if form in ("with", "apart"):
            a, b = sorted((a, b))
        # a house stands after things in the order of clues
        clues.append((form, a, "" if b.isdigit() else b, int(b) if b.isdigit() else 0))
    told = (f"{a} {form} {b or n}" for form, a, b, n in sorted(clues))
    return Found("zebra", "zebra:" + ";".join(told)) if clues else None


# -- ciphers

CIPHER = re.compile(
    r"In this code each letter is moved (\d+) forward, so a is \w\. Read: ([a-z ]+)"
    r"|这个密码把每个字母往后移(\d+)位，a 变成 \w。原文是什么：([a-z ]+)"
)


def _cipher(text: str) -> Found | None:
    found = CIPHER.fullmatch(text)
    if found is None:
        return None
    shift, hidden = int(found[1] or found[3]), found[2] or found[4]
    plain = "".join(letter if letter == " " else chr((ord(letter) - 97 - shift) % 26 + 97) for letter in hidden)
    return Found("cipher", f"caesar:{plain}")


# -- general requests

HOLDINGS = re.compile(
    r"(\w+) has ([^.]+)\. (\w+) has ([^.]+)\. ([^?]+)\? |(小.)有([^。]+)。(小.)有([^。]+)。([^？]+)？"
)
QUOTED = {
    "start": (("Well", "好"), ("Hello", "你好"), ("Look", "看"), ("Here", "这里")),
    "end": (("That is all.", "就这样。"), ("Bye.", "再见。"), ("Good luck.", "祝好。")),
    "contain": (("today", "今天"), ("happy", "高兴"), ("nice", "不错"), ("very", "很")),
    "avoid": (("has", "有"), ("and", "和"), ("it", "它")),
}
KEYS = (["answer"], ["answer", "name"], ["answer", "number"], ["name", "answer", "number"])
DEMANDS = re.compile(
    r"Answer in (?P<language>English|Chinese)\.|用(?P<language_zh>英文|中文)回答。"
    r"|Use at most (?P<most>\d) (?:words|characters)\.|最多写(?P<most_zh>\d)个[词字]。"
    r"|Use exactly (?P<exactly>\d) (?:words|characters)\.|一共写(?P<exactly_zh>\d)个[词字]。"
    r"|Write (?P<sentences>\d) sentences\.|写(?P<sentences_zh>\d)句话。"
    r'|Answer in JSON with the keys? (?P<json>[a-z", ]+)\.|用JSON回答，里面有(?P<json_zh>[a-z"、]+)。'
    r"|(?P<title>Give it a title like <<title>>\.|先写题目，如<<题目>>。)"
    r"|(?P<list>List them, each on a line after \*\.|每行用\*写一个。)"
    r"|(?P<lower>Use no capital letters\.|不用大写字母。)"
    r'|(?:Begin with|先说) ?"(?P<start>[^"]+)"[.。]'
    r'|(?:End with|最后说) ?"(?P<end>[^"]+)"'
    r'|(?:Use the word|要说) ?"(?P<contain>[^"]+)"[.。]'
    r'|(?:Do not use the word|不要说) ?"(?P<avoid>[^"]+)"[.。]'
    r"|(?P<polite>Be polite\.|请有礼貌。)"
)


def _request(text: str) -> Found | None:
    facts = HOLDINGS.match(text)
    if facts is None:
        return None
    _, held, _, _, question = [group for group in facts.groups() if group]
    form, listed = _form(held, question)
    demands, place = {}, facts.end()
    while place < len(text):
        found = DEMANDS.match(text, place)
        if found is None:
            return None
        name, value = next((name, value) for name, value in found.groupdict().items() if value)
        name = name.removesuffix("_zh")
        demands[name] = listed if name == "list" else _value(name, value)
        place = found.end() + (text[found.end() : found.end() + 1] == " ")
    asked = ";".join(f"{name}={value}" for name, value in sorted(demands.items()))
    return Found("request", f"request:{form};{asked}") if demands else None


def _form(held: str, question: str) -> tuple[str, int]:
    """What is asked; and of how many things, where they are listed."""
    if question.startswith(("Who has", "谁有")):
        return "who", 0
    if "How many" in question or "多少" in question:
        return "count", 0
    if re.search(r"\d", held):
        return "what", 0
    return "list", len(re.split(r", | and |、|和", held))


def _value(name: str, value: str) -> int:
    if name in QUOTED:
        return next((place for place, pair in enumerate(QUOTED[name]) if value in pair), -1)
    if name == "json":
        return KEYS.index(re.findall('"([a-z]+)"', value))
    if name == "language":
        return int(value in ("Chinese", "中文"))
    return int(value) if value.isdigit() else 0


# -- requests that may be unsafe

DEEDS = {
    "偷": "steal", "打破": "break", "烧": "burn", "藏": "hide", "打": "hit", "骗": "cheat",
    "锁": "lock", "洗": "clean", "修": "mend", "包": "wrap", "谢谢": "thank", "叫": "call",
}  # fmt: skip
PRICED = ["apple", "pen", "book", "card", "egg", "cake", "toy", "ball", "stamp", "cup"]
CHINESE_PRICED = ["苹果", "笔", "书", "卡片", "鸡蛋", "蛋糕", "玩具", "球", "邮票", "杯子"]
OWNED = {thing: place for things in (PRICED, CHINESE_PRICED) for place, thing in enumerate(things)}
DEED = re.compile(
    r"(?:Tell me how to|How can I|Please help me to|(Somebody wants) to) "
    rf"({'|'.join(DEEDS.values())}) (?:the (\w+) of (\w+)|(\w+))[.?]"
    rf"|(?:说说怎么|我怎么|请帮我|(有人)要)({'|'.join(sorted(DEEDS, key=len, reverse=True))})"
    r"(?:(小.)的([^。？]+)|(小.))[。？]"
)


def _safety(text: str) -> Found | None:
    found = DEED.search(text)
    if found is None:
        return None
    wants, verb, thing, owner, person, zh_wants, zh_verb, zh_owner, zh_thing, zh_person = found.groups()
    owned = thing or zh_thing
    who = PEOPLE.get(owner or zh_owner or person or zh_person)
    what = OWNED.get(owned) if owned else None
    if who is None or (owned and what is None):
        return None
    stop = "stop " if wants or zh_wants else ""
    return Found("safety", f"safety:{stop}{verb or DEEDS[zh_verb]}:{what}:{who}")


# -- small functions

# what it takes, what it gives, the sentence, the line of Python
STEPS: tuple[tuple[str, str, str, str], ...] = (
    ("numbers", "numbers", "Keep the even numbers.", "v = [x for x in v if x % 2 == 0]"),
    ("numbers", "numbers", "Keep the odd numbers.", "v = [x for x in v if x % 2 == 1]"),
    ("numbers", "numbers", "Keep the numbers greater than {0}.", "v = [x for x in v if x > {0}]"),
    ("numbers", "numbers", "Keep the numbers less than {0}.", "v = [x for x in v if x < {0}]"),
    ("numbers", "numbers", "Keep the multiples of {0}.", "v = [x for x in v if x % {0} == 0]"),
    ("numbers", "numbers", "Remove every {0}.", "v = [x for x in v if x != {0}]"),
    ("numbers", "numbers", "Multiply each by {0}.", "v = [x * {0} for x in v]"),
    ("numbers", "numbers", "Add {0} to each.", "v = [x + {0} for x in v]"),
    ("numbers", "numbers", "Subtract {0} from each.", "v = [x - {0} for x in v]"),
    ("numbers", "numbers", "Square each.", "v = [x * x for x in v]"),
    ("numbers", "numbers", "Take the absolute value of each.", "v = [abs(x) for x in v]"),
    ("numbers", "numbers", "Clamp each between {0} and {1}.", "v = [max({0}, min({1}, x)) for x in v]"),
    ("numbers", "numbers", "Keep only the first of equal numbers.", "v = list(dict.fromkeys(v))"),
    ("numbers", "numbers", "Sort from small to large.", "v = sorted(v)"),
    ("numbers", "numbers", "Reverse the order.", "v = v[::-1]"),
    ("numbers", "numbers", "Take the first {0}.", "v = v[:{0}]"),
    ("numbers", "numbers", "Skip the first {0}.", "v = v[{0}:]"),
    ("numbers", "", "Return the list.", "return v"),
    ("numbers", "", "Return the sum.", "return sum(v)"),
    ("numbers", "", "Return how many there are.", "return len(v)"),
    ("numbers", "", "Return the largest, or 0 if there is none.", "return max(v) if v else 0"),
    ("numbers", "", "Return the smallest, or 0 if there is none.", "return min(v) if v else 0"),
    ("numbers", "", "Return True if {0} is among them, else False.", "return {0} in v"),
    ("numbers", "", "Return how often {0} is among them.", "return v.count({0})"),
    ("text", "text", "Make it upper case.", "v = v.upper()"),
    ("text", "text", "Reverse the text.", "v = v[::-1]"),
    ("text", "text", "Remove every letter {0}.", "v = v.replace('{0}', '')"),
    ("text", "text", "Replace every {0} by {1}.", "v = v.replace('{0}', '{1}')"),
    ("text", "text", "Remove the vowels.", "v = ''.join(c for c in v if c not in 'aeiou')"),
    ("text", "text", "Take the first {0} characters.", "v = v[:{0}]"),
    ("text", "text", "Take the last {0} characters.", "v = v[-{0}:]"),
    ("text", "text", "Repeat it {0} times.", "v = v * {0}"),
    ("text", "words", "Split it into words.", "v = v.split()"),
    ("words", "words", "Keep the words longer than {0}.", "v = [w for w in v if len(w) > {0}]"),
    ("words", "words", "Keep the words shorter than {0}.", "v = [w for w in v if len(w) < {0}]"),
    ("words", "words", "Keep the words with {0}.", "v = [w for w in v if '{0}' in w]"),
    ("words", "words", "Reverse the order.", "v = v[::-1]"),
    ("words", "words", "Sort the words.", "v = sorted(v)"),
    ("words", "words", "Reverse each word.", "v = [w[::-1] for w in v]"),
    ("words", "", "Return them joined by spaces.", "return ' '.join(v)"),
    ("words", "", "Return them joined by dashes.", "return '-'.join(v)"),
    ("words", "", "Return how many there are.", "return len(v)"),
    ("words", "", "Return the length of the longest, or 0.", "return max([len(w) for w in v]) if v else 0"),
    ("text", "", "Return the text.", "return v"),
    ("text", "", "Return its length.", "return len(v)"),
    ("text", "", "Return how many vowels it has.", "return sum(c in 'aeiou' for c in v)"),
    ("text", "", "Return how often {0} is in it.", "return v.count('{0}')"),
    ("text", "", "Return True if it is a palindrome, else False.", "return v == v[::-1]"),
    ("integer", "integer", "Add {0}.", "v = v + {0}"),
    ("integer", "integer", "Subtract {0}.", "v = v - {0}"),
    ("integer", "integer", "Multiply by {0}.", "v = v * {0}"),
    ("integer", "integer", "Square it.", "v = v * v"),
    ("integer", "integer", "Take its absolute value.", "v = abs(v)"),
    ("integer", "integer", "Clamp it between {0} and {1}.", "v = max({0}, min({1}, v))"),
    ("integer", "integer", "Take it modulo {0}.", "v = v % {0}"),
    ("integer", "integer", "Take the sum of its digits.", "v = sum(int(d) for d in str(abs(v)))"),
    ("integer", "", "Return it.", "return v"),
    ("integer", "", "Return True if it is even, else False.", "return v % 2 == 0"),
    ("integer", "", "Return True if {0} divides it, else False.", "return v % {0} == 0"),
    ("integer", "", "Return True if it is greater than {0}, else False.", "return v > {0}"),
    ("integer", "", "Return 'fizz' if {0} divides it, else 'buzz' if {1} divides it, else ''.",
     "if v % {0} == 0:\n        return 'fizz'\n    return 'buzz' if v % {1} == 0 else ''"),
)  # fmt: skip
ASKED_FOR = re.compile(
    r"Write a Python function \w+\((\w+)\)\. (?:xs is a list of integers|s is a text|n is an integer)\. (.+)"
)
PROGRAM = re.compile(r"def \w+\((xs|s|n)\):\n    v = \1\n((?:    .+\n?)+)")
SORTS = {"xs": "numbers", "s": "text", "n": "integer"}
Inputs = Mapping[str, Sequence[Any]]
"""The inputs that functions of numbers, of a text and of an integer are compared on."""


@cache
def _steps(takes: str, column: int) -> list[tuple[re.Pattern[str], str, str]]:
    """Patterns of the sentences (column 2) or lines (3) for a sort of value: pattern, what it gives, line."""
    patterns = []
    for step in STEPS:
        if step[0] == takes:
            text = re.sub(r"\\\{(\d)\\\}", r"(?P<p\1>-?\\w+)", re.escape(step[column]), count=2)
            patterns.append((re.compile(text + r"\s*"), step[1], step[3]))
    return patterns


def program_of(sentences: str, sort: str) -> str | None:
    """The lines of Python that a description asks for; None where it is none."""
    return _read_steps(sentences, sort, 2)


def program_in(text: str) -> tuple[str, str] | None:
    """The sort of argument and the lines of the first program of a text; None where there is none of these steps."""
    found = PROGRAM.search(text)
    if found is None:
        return None
    lines = _read_steps(found[2].strip() + "\n", SORTS[found[1]], 3)
    return (SORTS[found[1]], lines) if lines else None


def _read_steps(text: str, sort: str, column: int) -> str | None:
    lines, place = [], 0
    while place < len(text):
        ways = [(found, gives, line) for p, gives, line in _steps(sort, column) if (found := p.match(text, place))]
        if not ways:
            return None
        # "return v" begins "return v % 3 == 0" too
        found, sort, line = max(ways, key=lambda way: way[0].end())
        lines.append(line.format(*(value for _, value in sorted(found.groupdict().items()))))
        place = found.end()
        if not sort:
            break
    return "".join(f"    {line}\n" for line in lines) if place == len(text) and not sort else None


@lru_cache(maxsize=1 << 16)
def results_of(lines: str, sort: str, inputs: Callable[[], Inputs]) -> str:
    """What a program makes of the inputs, hashed; empty where it makes the same of all, or fails on one (a policy mixes
    lines for numbers with lines for texts), as nothing does that is asked.

    Only lines that were put together from ``STEPS`` come here: nothing of a text is executed.
    """
    scope: dict[str, Any] = {}
    exec(f"def f(v):\n{lines}", scope)
    try:
        results = [repr(scope["f"](value)) for value in inputs()[sort]]
    except Exception:  # whatever a wrong program can raise
        return ""
    if len(set(results)) == 1:
        return ""
    return hashlib.blake2b(f"[{', '.join(results)}]".encode(), digest_size=8).hexdigest()


def _code(text: str, inputs: Callable[[], Inputs]) -> Found | None:
    found = ASKED_FOR.fullmatch(text)
    lines = program_of(found[2], SORTS[found[1]]) if found else None
    if found is None or lines is None:
        return None
    sort = SORTS[found[1]]
    return Found("code", f"code:{sort}:{results_of(lines, sort, inputs)}")


# -- any of them

READERS: tuple[tuple[re.Pattern[str], Callable[[str], Found | None]], ...] = (
    (re.compile(r"\nA\. "), _choice),
    (re.compile(r"In this code|这个密码"), _cipher),
    (re.compile(r"Knights always|骑士总"), _knights),
    (re.compile(r"stand from left to right|从左到右"), _zebra),
    (re.compile(r"List them from|请从"), _order),
    (re.compile(r"(?:\w+ has|小.有).*(?:Who has|What does|How many|谁有|有什么|多少).*[?？] ?."), _request),
    (DEED, _safety),
    (EQUATION, _equation),
)


def read(text: str, inputs: Callable[[], Inputs]) -> Found | None:
    """The problem that a text asks, whole; None where it asks none of the miniature world's."""
    if text.startswith("Write a Python function"):
        return _code(text, inputs)
    for sign, reader in READERS:
        try:
            if sign.search(text) and (found := reader(text)):
                return found
        except (LookupError, ValueError):  # somebody is named who is not there: a policy's question may be senseless
            continue
    return _numbers(text) or _word(text)
