"""A client of servers that speak OpenAI's chat protocol: vLLM, SGLang, `transformers serve`, llama.cpp, hosted models.

For judges, rewriters and writers of instructions: questions in, texts out, many at a time. Retries, time-outs and what
a server that is gone means are decided here; what an answer is worth is decided by who asked.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.types import Message, R1Error, UserError

LONGEST_WAIT = 60.0
"""Seconds between two tries at most, whatever the server asks for."""
POLL = 0.05
"""Seconds between two looks at whether to stop."""
GRACE = 1.0
"""Seconds that answers on their way are waited for where asking ends early: they are made, and may be paid for."""
SURELY_WRONG = 3
"""So many questions refused (status 400) and none answered: it is the request that the server does not understand."""
_REFUSED, _NEVER = (400, 413, 422), (401, 403, 404, 405)

Keep = Callable[["Ask", str], None]


class ServerGoneError(R1Error):
    """The server did not answer, however often it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question in chat messages. ``attempt``: how often it was asked before because the answer was of no use; another
    attempt draws another answer."""

    messages: tuple[Message, ...]
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """``url``: up to and with ``/v1``. ``model``: empty takes the first that the server names. ``timeout``: seconds of
    one try. ``tries``: of one question before the server counts as gone; ``backoff``: seconds before the second try,
    doubled each time. ``api_key_env``: the variable that holds the key, where the server wants one.
    """

    url: str
    model: str = ""
    temperature: float = 0.0
    max_completion_length: int = 2048
    timeout: float = 120.0
    tries: int = 6
    backoff: float = 1.0
    concurrency: int = 8
    api_key_env: str = "OPENAI_API_KEY"


def is_server(name: str) -> bool:
    """Whether this names a server rather than a model."""
    return name.startswith(("http://", "https://"))


class ChatServer:
    """Answers by a server. ``refused`` counts the questions that it would not take (too long, say): their answer is the
    empty text. Raises UserError where the package ``openai`` is missing, or the server wants another key or has no such
    model.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.refused = 0
        self.answered = 0
        _openai()
        self.model = settings.model or asyncio.run(self._first_model())

    def answer(self, asks: Sequence[Ask], keep: Keep, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Ask all, at most ``concurrency`` at a time; ``keep(ask, text)`` gets each answer as it comes, in any order.

        Returns early where ``should_stop`` says so. Raises ServerGoneError where a question stays without an answer:
        what was kept before is kept.
        """
        if asks:
            asyncio.run(self._answer(asks, keep, should_stop))

    async def _answer(self, asks: Sequence[Ask], keep: Keep, should_stop: Callable[[], bool]) -> None:
        waiting = deque(asks)
        async with self._client() as client:
            workers = [
                asyncio.create_task(self._work(client, waiting, keep))
                for _ in range(min(self.settings.concurrency, len(asks)))
            ]
            try:
                pending: set[asyncio.Task[None]] = set(workers)
                while pending and not should_stop():
                    done, pending = await asyncio.wait(pending, timeout=POLL, return_when=asyncio.FIRST_EXCEPTION)
                    for worker in done:
                        worker.result()
            finally:
                waiting.clear()
                await asyncio.wait(workers, timeout=GRACE)
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, client: Any, waiting: deque[Ask], keep: Keep) -> None:
        while waiting:
            ask = waiting.popleft()
            keep(ask, await self._one(client, ask))

    async def _one(self, client: Any, ask: Ask) -> str:
        settings = self.settings

        async def request() -> str:
            reply = await client.chat.completions.create(
                model=self.model,
                messages=[_sendable(message) for message in ask.messages],
                temperature=settings.temperature,
                max_tokens=settings.max_completion_length,
                seed=ask.attempt,
            )
            return str(reply.choices[0].message.content or "")

        text = await self._tried(request)
        if text is None:
            self.refused += 1
            if not self.answered and self.refused >= SURELY_WRONG:
                raise UserError(f"{settings.url} takes none of the questions: {self._last_error}")
            return ""
        self.answered += 1
        return text

    async def _tried(self, request: Callable[[], Any]) -> Any:
        """What ``request`` gives, tried until it does; None where the server will not have it."""
        openai, settings = _openai(), self.settings
        for number in range(settings.tries):
            wait = min(LONGEST_WAIT, settings.backoff * 2**number)
            try:
                # the client's own time-out is of one read: a server that sends a byte a minute would never run into it
                async with asyncio.timeout(settings.timeout):
                    return await request()
            except openai.APIStatusError as error:
                self._last_error = _short(error)
                if error.status_code in _REFUSED:
                    return None
                if error.status_code in _NEVER:
                    raise UserError(f"{settings.url} refuses: {self._last_error}{self._mend(error)}") from error
                wait = min(LONGEST_WAIT, max(wait, _retry_after(error)))
            except TimeoutError:
                self._last_error = f"no answer within {settings.timeout:g} s"
            except openai.OpenAIError as error:
                self._last_error = _short(error)
            except (ValueError, AttributeError, IndexError, TypeError, KeyError) as error:
                self._last_error = (
                    f"its answer is not what this protocol has, a page of a proxy perhaps: {_short(error)}"
                )
            if number + 1 < settings.tries:
                await asyncio.sleep(wait)
        raise ServerGoneError(
            f"the server {settings.url} gave no answer in {settings.tries} tries ({self._last_error}); the answers "
            "that came before are kept: start it and give the same command again"
        )

    async def _first_model(self) -> str:
        async with self._client() as client:

            async def request() -> str:
                return str((await client.models.list()).data[0].id)

            name = await self._tried(request)
        if name is None:
            raise UserError(f"{self.settings.url} does not name its models ({self._last_error}); name one of them")
        return str(name)

    def _mend(self, error: Any) -> str:
        if error.status_code in (401, 403):
            return f"; put its key into the environment variable {self.settings.api_key_env}"
        return f"; give the address up to and with /v1, and a model that it has (here {self.settings.model!r})"

    def _client(self) -> Any:
        return _openai().AsyncOpenAI(
            base_url=self.settings.url,
            api_key=os.environ.get(self.settings.api_key_env) or "none",
            max_retries=0,
            timeout=self.settings.timeout,
        )

    _last_error = ""


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise UserError("to ask a server the package openai is needed: pip install 'r1kit[server]'") from error
    return openai


def _sendable(message: Message) -> dict[str, str]:
    """The message without half characters (lone surrogates), which model output may hold and UTF-8 cannot."""
    return {"role": message["role"], "content": message["content"].encode(errors="replace").decode()}


def _retry_after(error: Any) -> float:
    try:
        return float(error.response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
