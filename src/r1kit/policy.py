"""A policy: model, tokenizer and template. Loads and saves the Hugging Face format; gives token log-probabilities.

Never runs code from a checkpoint: ``trust_remote_code`` stays off, weights are read from safetensors only, and
templates are rendered by transformers' sandboxed Jinja.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from r1kit.batching import Int64s, ModelView
from r1kit.devices import resolve_device
from r1kit.fused import Packing, chunked_logprobs, head_logits, is_lean, make_lean
from r1kit.kernels.training import Packed, hidden_states, trained_model
from r1kit.kernels.training import logprobs as compiled_logprobs
from r1kit.lora import LoraSettings, add_adapter, merged_weights
from r1kit.losses import logprobs_and_entropy
from r1kit.tasks.hub import hub_reachable
from r1kit.types import Int32s, Message, UserError, read_only

_R1_ZERO_TEXT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>."
)
_ORZ_TEXT = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. "
    "The Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
    "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: "
    "You must put your answer inside <answer> </answer> tags, i.e., <answer> answer here </answer>. "
    "And your final answer will be extracted automatically by the \\boxed{} tag.\nThis is the problem:\n"
)

GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
TEMPLATES = {
    # R1 (arXiv 2501.12948) Table 1, word for word; the line breaks there are the page's, so here they are spaces.
    "r1_zero": _R1_ZERO_TEXT
    + "{% for message in messages %}{% if message['role'] == 'assistant' %} Assistant: {{ message['content'] }}"
    "{% elif message['role'] == 'system' %} {{ message['content'] }}"
    "{% else %} User: {{ message['content'] }}.{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} Assistant:{% endif %}",
    # Open-Reasoner-Zero (arXiv 2503.24290): prefills the tag. Single turn.
    "r1_zero_orz": _ORZ_TEXT
    + "{{ messages[-1]['content'] }}\n{% if add_generation_prompt %}Assistant: <think>{% endif %}",
    "plain": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
}
"""Prompt templates by name (Jinja chat templates)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """``template``: the Jinja chat template in use. ``eos_token_ids``: every id that ends a completion, the tokenizer's
    own first. ``prefill_think``: prompts end with ``<think>``, so completions begin inside it. ``warnings``: oddities
    of the checkpoint, a sentence each. ``adapter``: peft's handle on ``model`` where a LoRA adapter is in it.
    """

    model: Any
    tokenizer: Any
    template: str
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    prefill_think: bool
    warnings: tuple[str, ...] = ()
    adapter: Any = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The prompt as the model reads it, up to where the completion begins."""
        return _render(self.tokenizer, self.template, messages, add_generation_prompt=True)

    def conversation_text(self, messages: Sequence[Message]) -> str:
        """A conversation as the template writes it, with nothing opened at its end."""
        return _render(self.tokenizer, self.template, messages, add_generation_prompt=False)

    def prompt_ids(self, messages: Sequence[Message]) -> Int32s:
        """Token ids of ``prompt_text``, read-only int32."""
        return self.encode(self.prompt_text(messages))

    def encode(self, text: str) -> Int32s:
        """Token ids of a text as it stands: nothing is added."""
        return read_only(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)

    def decode(self, token_ids: npt.ArrayLike) -> str:
        """The text of a completion. Tags such as <think> are kept, end-of-sequence, pad and BOS tokens dropped."""
        dropped = {*self.eos_token_ids, self.pad_token_id, self.tokenizer.bos_token_id}
        kept = [int(token) for token in np.asarray(token_ids) if int(token) not in dropped]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _render(tokenizer: Any, template: str, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except Exception as error:
        raise UserError(f"The chat template failed on {len(messages)} messages: {_first_line(error)}.") from error
    return str(text)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def load_policy(
    path: str | Path, *, device: str = "auto", dtype: str | torch.dtype = "float32", template: str = "auto"
) -> Policy:
    """Load a Hugging Face checkpoint: a folder, or the name of a hub repository (``owner/name``).

    ``device``: "auto" takes a CUDA device if there is one. ``dtype``: of the weights in memory; training wants
    "float32" (the optimizer's master copy), "auto" keeps the checkpoint's. ``template``: "auto" (the tokenizer's chat
    template, else "r1_zero"), "chat", a name in ``TEMPLATES``, or the path of a Jinja file.

    Raises UserError where the folder, its configuration, weights or tokenizer are missing or do not fit together.
    """
    source = _check_path(path)
    tokenizer = _load_tokenizer(source)
    model = _load_model(source, dtype)
    return _loaded(path, model, tokenizer, device, template)


def _loaded(path: str | Path, model: Any, tokenizer: Any, device: str, template: str) -> Policy:
    vocabulary, rows = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    if vocabulary > rows:
        raise UserError(
            f"{path}: the tokenizer has {vocabulary} tokens but the model embeds only {rows}: "
            "use the tokenizer the model was trained with, or resize the embeddings."
        )
    model.to(resolve_device(device)).eval()
    make_lean(model)
    return make_policy(model, tokenizer, template=template)


def load_reward_policy(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "float32",
    template: str = "auto",
    head_seed: int | None = None,
) -> Policy:
    """Load a checkpoint as a reward model: ``AutoModelForSequenceClassification`` with one label, whose score is a
    linear map of the last token's hidden state. Arguments as ``load_policy``.

    ``head_seed``: a checkpoint without a head gets one, drawn from N(0, 1 / (width + 1)) by this seed (Stiennon et al.,
    arXiv 2009.01325, app. B); None: it is refused. Raises UserError as ``load_policy``, and for a checkpoint that tells
    several labels apart or has no head of this shape.
    """
    source = _check_path(path)
    tokenizer = _load_tokenizer(source)
    model, fresh = _load_scorer(source, dtype)
    if fresh and head_seed is None:
        raise UserError(f"{path}: no score head, so this is no reward model: train one with `r1 run reward_model`.")
    if fresh:
        width = model.score.in_features
        drawn = torch.randn(1, width, generator=torch.Generator().manual_seed(head_seed or 0))
        model.score.weight.data.copy_(drawn / (width + 1) ** 0.5)
    policy = _loaded(path, model, tokenizer, device, template)
    model.config.pad_token_id = policy.pad_token_id
    return policy


def _load_scorer(source: str, dtype: str | torch.dtype) -> tuple[Any, bool]:
    """(model, whether its head is new)."""
    here = _only_here(source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=here)
        config.num_labels = _labels(config)
        with _silent_transformers():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=here,
                output_loading_info=True,
            )
    except Exception as error:
        raise _cannot_load(source, "transformers cannot load it as a reward model", error) from error
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1 or head.bias is not None:
        raise UserError(f"{source}: its head is not one plain score; give a reward model with num_labels = 1.")
    missing = set(info["missing_keys"])
    if missing - {"score.weight"}:
        raise UserError(f"{source}: weights are missing, first {min(missing - {'score.weight'})}.")
    return model, "score.weight" in missing


def _labels(config: Any) -> int:
    """Labels that the checkpoint's own head has; 1 where it has none (a language model's configuration says 2)."""
    trained = any("SequenceClassification" in name for name in getattr(config, "architectures", None) or ())
    return int(config.num_labels) if trained else 1


@contextmanager
def _silent_transformers() -> Iterator[None]:
    # what is said of a language model's head and a new score head is expected here
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def make_policy(model: Any, tokenizer: Any, *, template: str = "auto") -> Policy:
    """A policy of a model and a tokenizer already in memory; ``template`` as for ``load_policy``."""
    text = _template_text(template, tokenizer)
    eos, warnings = _end_tokens(model, tokenizer, text)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
    prompt = _render(tokenizer, text, [Message(role="user", content="?")], add_generation_prompt=True)
    return Policy(
        model=model,
        tokenizer=tokenizer,
        template=text,
        eos_token_ids=eos,
        pad_token_id=int(pad),
        prefill_think=prompt.rstrip().endswith("<think>"),
        warnings=tuple(warnings),
    )


def with_adapter(policy: Policy, settings: LoraSettings, *, seed: int) -> Policy:
    """The policy with its weights frozen and a new LoRA adapter in its model (in place), which alone is trained. Make
    what copies the plain model (an engine) before. Raises UserError as ``r1kit.lora.add_adapter``."""
    return replace(policy, adapter=add_adapter(policy.model, settings, seed=seed))


def named_weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """The policy's state under its Hugging Face names, an adapter merged in; tied tensors under each of their names."""
    if policy.adapter is not None:
        return merged_weights(policy.model)
    return iter(policy.model.state_dict(keep_vars=True).items())


def _check_path(path: str | Path) -> str:
    folder = Path(path).expanduser()
    if not folder.exists():
        if isinstance(path, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", path):
            return path
        raise UserError(f"{path}: there is no such model folder.")
    if not (folder / "config.json").is_file():
        raise UserError(f"{path}: no config.json, so this is not a Hugging Face checkpoint.")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        reason = "its weights are pickled, which can run code when loaded" if pickled else "no weights in it"
        raise UserError(f"{path}: {reason}; r1kit reads *.safetensors only (convert with safetensors.torch.save_file).")
    return str(folder)


def _only_here(source: str) -> bool:
    """Whether a checkpoint can come from this machine alone. The hub's clients find that out in minutes."""
    return Path(source).is_dir() or not hub_reachable()


def _cannot_load(source: str, what: str, error: Exception) -> UserError:
    if not Path(source).is_dir() and not hub_reachable():
        return UserError(
            f"{source} is no folder here, and the Hugging Face hub cannot be reached to look for it: give the folder "
            "of a downloaded checkpoint."
        )
    return UserError(f"{source}: {what}: {_first_line(error)}.")


def _load_tokenizer(source: str) -> Any:
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in names):
        raise UserError(f"{source}: no tokenizer (tokenizer.json) beside the model: copy the one it was trained with.")
    kind = PreTrainedTokenizerFast if _is_generic(source) else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(source, trust_remote_code=False, local_files_only=_only_here(source))
    except Exception as error:  # transformers and tokenizers raise a dozen types here
        raise _cannot_load(source, "the tokenizer cannot be loaded", error) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"{source}: the tokenizer has no eos_token, so a completion could never end: set one.")
    return tokenizer


def _is_generic(source: str) -> bool:
    """Whether a checkpoint says that its tokenizer is all in tokenizer.json. ``AutoTokenizer`` takes the architecture's
    own class all the same (Qwen2Tokenizer, say), which splits text otherwise and adds tokens."""
    try:
        about = json.loads((Path(source) / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    named = about.get("tokenizer_class") if isinstance(about, dict) else None
    return named in GENERIC_TOKENIZERS and (Path(source) / "tokenizer.json").is_file()


def _load_model(source: str, dtype: str | torch.dtype) -> Any:
    try:
        here = _only_here(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=here)
        return AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=here,
        )
    except Exception as error:
        raise _cannot_load(source, "transformers cannot load the model", error) from error


def _template_text(template: str, tokenizer: Any) -> str:
    own = tokenizer.chat_template
    if template == "chat" and not own:
        raise UserError(
            'template="chat", but the tokenizer has no chat template: choose r1_zero, plain or a Jinja file.'
        )
    if template == "chat" or (template == "auto" and own):
        return str(own["default"] if isinstance(own, dict) else own)
    name = "r1_zero" if template == "auto" else template
    if name in TEMPLATES:
        first = tokenizer("a")["input_ids"][:1]
        begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
        return ("{{ bos_token }}" if begins else "") + TEMPLATES[name]
    file = Path(template).expanduser()
    if not file.is_file():
        raise UserError(
            f'Unknown template "{template}": auto, chat, {", ".join(TEMPLATES)}, or the path of a Jinja file.'
        )
    return file.read_text(encoding="utf-8")


def _end_tokens(model: Any, tokenizer: Any, template: str) -> tuple[tuple[int, ...], list[str]]:
    """Every id that ends a turn. Open R1 and others trained models that never stop because these three disagreed."""
    ids, warnings = [int(tokenizer.eos_token_id)], []
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    configured = [configured] if isinstance(configured, int) else list(configured or [])
    if configured and ids[0] not in configured:
        named = [
            token or f"id {i}" for i, token in zip(configured, tokenizer.convert_ids_to_tokens(configured), strict=True)
        ]
        warnings.append(
            f"The tokenizer ends with {tokenizer.eos_token} but generation_config.json with "
            f"{', '.join(named)}; completions end at either."
        )
    ids += [int(token) for token in configured if token not in ids]
    turn_end = _turn_end(tokenizer, template)
    if turn_end is not None and turn_end not in ids:
        warnings.append(
            f"The chat template ends a turn with {tokenizer.convert_ids_to_tokens(turn_end)} but the tokenizer's "
            f"eos_token is {tokenizer.eos_token}; completions end at either."
        )
        ids.append(turn_end)
    return tuple(ids), warnings


def _turn_end(tokenizer: Any, template: str) -> int | None:
    """The special token that the template writes right after what the assistant says, if any."""
    marker = "r1kitturn"
    turns = [Message(role="user", content="?"), Message(role="assistant", content=marker)]
    try:
        text = _render(tokenizer, template, turns, add_generation_prompt=False)
    except UserError:
        return None
    rest = text.rpartition(marker)[2].lstrip() if marker in text else ""
    after = tokenizer(rest, add_special_tokens=False)["input_ids"]
    return int(after[0]) if after and after[0] in tokenizer.all_special_ids else None


def save_policy(policy: Policy, directory: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write ``directory`` in the Hugging Face format: safetensors weights (in ``dtype``; default: as they are; an
    adapter merged in), tokenizer, the chat template in use, generation config with every end token. It is written aside
    and then renamed: nobody ever reads half a checkpoint.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _write_checkpoint(policy, staging, dtype)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    retired = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    if directory.exists():
        directory.rename(retired)
    staging.rename(directory)
    shutil.rmtree(retired, ignore_errors=True)
    return directory


def _write_checkpoint(policy: Policy, folder: Path, dtype: torch.dtype | None) -> None:
    model, tokenizer = policy.model, policy.tokenizer
    generation = getattr(model, "generation_config", None)
    if generation is not None:  # a reward model has none
        ends = policy.eos_token_ids
        generation.eos_token_id = list(ends) if len(ends) > 1 else ends[0]
        generation.pad_token_id = policy.pad_token_id
        # Sampling settings without do_sample are refused by save_pretrained; checkpoints on the hub have them.
        if any(getattr(generation, name, None) not in (None, 1.0) for name in ("temperature", "top_p")):
            generation.do_sample = True
    state = None
    if dtype is not None or policy.adapter is not None:
        wanted = dtype or model.dtype
        state = {name: (x.to(wanted) if x.is_floating_point() else x).detach() for name, x in named_weights(policy)}
    model.save_pretrained(folder, state_dict=state, safe_serialization=True)
    own, tokenizer.chat_template = tokenizer.chat_template, policy.template
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = own
    if dtype is not None:
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config["dtype"] = str(dtype).removeprefix("torch.")
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------- token log-probabilities


@dataclass(frozen=True, slots=True)
class _Head:
    """The LM head as a plain linear map and what the model does to its output."""

    linear: nn.Linear
    scale: float
    softcap: float | None


_heads: WeakKeyDictionary[nn.Module, _Head | None] = WeakKeyDictionary()


def token_logprobs(
    model: Any, view: ModelView, *, temperature: float = 1.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of ``view.target_M`` given what precedes them, and the entropies there: two fp32 tensors [M],
    in nats, of softmax(logits / temperature).

    Only the positions in ``view.source_M`` reach the LM head, ``chunk`` at a time (default: half a million logits on a
    CPU, 128 million on a GPU); full logits are never in memory, forward or backward. A model whose logits are more
    than a scaled, soft-capped linear map of its last hidden state falls back to its own logits, whole.
    """
    head, states = _predicting_states(model, view)
    compiled = trained_model(model, view.tokens_BT.size)
    if compiled is not None:
        weight = model.get_output_embeddings().weight
        return compiled_logprobs(compiled, states, weight, view.target_M.astype(np.int32), temperature)
    target = torch.from_numpy(view.target_M).to(states.device)
    if head is None:
        return logprobs_and_entropy(states.float() / temperature, target)
    return chunked_logprobs(
        states,
        head.linear,
        target,
        temperature=temperature,
        chunk=chunk or _default_chunk(head),
        scale=head.scale,
        softcap=head.softcap,
    )


def sequence_scores(model: Any, view: ModelView) -> Tensor:
    """A reward model's fp32 score [M] at each token of ``view.target_M``: the head on the hidden state of that token
    itself, as ``AutoModelForSequenceClassification`` reads the last token that is no padding."""
    # source_M predicts the token from the one before it; here the token's own state is read
    states = _states_at(model, view, view.source_M + 1)
    with torch.autocast(states.device.type, enabled=False):
        return nn.functional.linear(states.float(), model.score.weight.float()).squeeze(-1)


def over_logits(
    model: Any,
    view: ModelView,
    function: Callable[..., tuple[Tensor, ...]],
    *rows_M: Tensor,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[Tensor, ...]:
    """``function(logits, *rows)`` of the fp32 logits [n, V] / temperature that predict ``view.target_M``, n at
    a time, with the same rows of ``rows_M`` (each [M, ...]); its outputs (each [n, ...]) put together to [M, ...].

    For what looks at whole distributions. Logits of more than ``chunk`` positions (default as ``token_logprobs``) are
    never in memory: the backward pass computes them again.
    """
    head, states = _predicting_states(model, view)
    if head is None:
        return function(states.float() / temperature, *rows_M)

    to_logits = head_logits(head.linear, temperature=temperature, scale=head.scale, softcap=head.softcap)

    def part(states: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(states.device.type, enabled=False):
            return function(to_logits(states), *rows)

    pieces = zip(*(rows.split(chunk or _default_chunk(head)) for rows in (states, *rows_M)), strict=True)
    if torch.is_grad_enabled():
        outputs = [checkpoint(part, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    else:
        outputs = [part(*piece) for piece in pieces]
    return tuple(torch.cat(column) for column in zip(*outputs, strict=True))


def _predicting_states(model: Any, view: ModelView) -> tuple[_Head | None, Tensor]:
    """The LM head and the hidden states [M, D] that it reads at ``view.source_M``; or None and the logits there [M, V],
    where the head is more than ``_Head`` describes."""
    head = _find_head(model)
    if head is None:
        device = next(model.parameters()).device
        logits = model(**_model_arguments(model, view, device)).logits
        return None, logits.flatten(0, 1)[torch.from_numpy(view.source_M).to(device)]
    return head, _states_at(model, view, view.source_M)


def _states_at(model: Any, view: ModelView, places_M: Int64s) -> Tensor:
    """The decoder's last hidden states [M, D] at flat indices into ``view.tokens_BT``."""
    compiled = trained_model(model, view.tokens_BT.size)
    if compiled is not None:
        packed, places_M = _packed(view, places_M)
        return hidden_states(compiled, packed).index_select(0, torch.from_numpy(places_M))
    device = next(model.parameters()).device
    states: Tensor = _decoder(model)(**_model_arguments(model, view, device)).last_hidden_state
    return states.flatten(0, 1).index_select(0, torch.from_numpy(places_M).to(device))


def _packed(view: ModelView, places_M: Int64s) -> tuple[Packed, Int64s]:
    """A view as one stream without padding, and places in its rows as places in the stream."""
    if view.cu_seqlens is not None and view.positions_BT is not None:
        ids, positions, starts = view.tokens_BT[0], view.positions_BT[0], view.cu_seqlens
    else:
        assert view.lengths_B is not None
        width = view.tokens_BT.shape[1]
        inside = np.arange(width) < view.lengths_B[:, None]
        starts = np.concatenate([[0], np.cumsum(view.lengths_B)])
        ids, positions = view.tokens_BT[inside], np.nonzero(inside)[1]
        places_M = starts[places_M // width] + places_M % width
    packed = Packed(ids=ids.astype(np.int32), positions=positions.astype(np.int32), starts=starts.astype(np.int32))
    return packed, places_M


def _default_chunk(head: _Head) -> int:
    weight = head.linear.weight
    budget = 1 << (19 if weight.device.type == "cpu" else 27)
    return max(64, budget // weight.shape[0])


def _model_arguments(model: Any, view: ModelView, device: torch.device) -> dict[str, Any]:
    arguments: dict[str, Any] = {"input_ids": torch.from_numpy(view.tokens_BT).to(device), "use_cache": False}
    if view.positions_BT is not None:
        # Without a mask, transformers reads the borders between sequences from positions that restart.
        arguments["position_ids"] = torch.from_numpy(view.positions_BT).to(device)
    if view.cu_seqlens is not None and is_lean(model):
        arguments["packing"] = Packing.of(view.cu_seqlens, device)
        # A mask of four dimensions is passed on as it is: this keeps transformers from building an N x N one.
        arguments["attention_mask"] = torch.zeros(1, 1, 1, 1, device=device)
    return arguments


def _decoder(model: Any) -> Any:
    return model.get_decoder() if hasattr(model, "get_decoder") else model.base_model


def _find_head(model: Any) -> _Head | None:
    """How the logits come from the last hidden state, tried once on two tokens against the model's own logits."""
    if model not in _heads:
        linear, config = model.get_output_embeddings(), model.config
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        head = _Head(linear, scale, getattr(config, "final_logit_softcapping", None))
        _heads[model] = head if isinstance(linear, nn.Linear) and _agrees(model, head) else None
    return _heads[model]


@torch.no_grad()
def _agrees(model: Any, head: _Head) -> bool:
    device = next(model.parameters()).device
    tokens = torch.tensor([[0, 1]], device=device)
    with torch.autocast(device.type, enabled=False):
        expected = torch.log_softmax(model(input_ids=tokens, use_cache=False).logits[0].float(), -1)
        hidden = _decoder(model)(input_ids=tokens, use_cache=False).last_hidden_state[0]
        targets = torch.tensor([0, 1], device=device)
        found, _ = chunked_logprobs(hidden, head.linear, targets, chunk=2, scale=head.scale, softcap=head.softcap)
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.1
    return bool((found - expected.gather(-1, targets[:, None]).squeeze(-1)).abs().max() < tolerance)
