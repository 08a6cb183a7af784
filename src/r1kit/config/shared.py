"""Keys that several methods share: of every recipe, of training a model, of sampling, of learning from examples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from r1kit.config.fields import (
    AdamBeta,
    Autocast,
    Count,
    Floats,
    Fraction01,
    Frozen,
    Names,
    NamesByName,
    NonNegativeFloat,
    OptionalPositiveInt,
    Pair,
    PositiveFloat,
    PositiveInt,
    TrackerNames,
)


class RecipeConfig(Frozen):
    """What every recipe has."""

    recipe: str = Field(description="Name of the recipe; a recipe file's name where it gives none.")
    seed: Count = Field(0, description="Decides every random draw of the run.")
    output_dir: str = Field("", description="Run directory; runs/<recipe> where empty.")
    device: str = Field("auto", description="Where to train: auto, cpu, cuda, cuda:1.")
    torch_threads: PositiveInt | Literal["auto"] = Field(
        "auto", description="CPU threads of torch; a run is bit-identical only for the same number."
    )
    autocast: Autocast = Field("auto", description="bfloat16 autocast in training: auto uses it where it pays.")
    save_every: Count = Field(50, description="Steps between checkpoints; 0: only at the end.")
    keep_checkpoints: PositiveInt = Field(2, description="How many checkpoints to keep.")
    report_to: TrackerNames = Field((), description="Trackers that get a copy of every metric; empty or none: none.")
    project: str = Field("r1kit", description="The project's name at the trackers.")
    run_name: str = Field("", description="The run's name at the trackers; the output directory's where empty.")

    @model_validator(mode="before")
    @classmethod
    def _default_output_dir(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("output_dir") and isinstance(values.get("recipe"), str):
            return {**values, "output_dir": f"runs/{values['recipe']}"}
        return values

    def to_dict(self) -> dict[str, Any]:
        """Flat JSON-ready values: what ``config.json`` holds, and what ``config_from_dict`` reads back."""
        return self.model_dump(mode="json")


class PolicyConfig(RecipeConfig):
    """What every recipe has that trains a model which is there already."""

    model: str = Field("mini-base", description="Starting checkpoint: mini-base (shipped), or a directory or hub name.")
    template: str = Field(
        "auto", description="Prompt template: auto, chat, r1_zero, r1_zero_orz, plain, or a Jinja file's path."
    )

    learning_rate: PositiveFloat = Field(1e-6, description="Peak learning rate of AdamW.")
    optim: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw_torch_fused", description="AdamW of torch, or with 8-bit states of bitsandbytes (CUDA)."
    )
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_min_lr"] = Field(
        "constant", description="Learning rate after the warm-up."
    )
    min_lr_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Final learning rate of linear and cosine as a share of the peak."
    )
    warmup_steps: Count = Field(0, description="Steps of linear warm-up from 0.")
    weight_decay: NonNegativeFloat = Field(0.0, description="Decoupled weight decay of AdamW.")
    adam_beta1: AdamBeta = Field(0.9, description="First-moment decay of AdamW.")
    adam_beta2: AdamBeta = Field(0.999, description="Second-moment decay of AdamW.")
    adam_epsilon: PositiveFloat = Field(1e-8, description="Denominator term of AdamW.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradients are scaled down to this norm.")

    use_peft: bool = Field(False, description="Train a LoRA adapter instead of all weights.")
    lora_r: PositiveInt = Field(16, description="Rank of the adapter.")
    lora_alpha: PositiveFloat = Field(32.0, description="The adapter's product is scaled by lora_alpha / lora_r.")
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout on the adapter's input.")
    lora_target_modules: Names = Field(
        ("all-linear",), description="Layers that get an adapter: ends of their names, or all-linear."
    )
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(lora_r) instead.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Type of frozen weights; auto: bfloat16 on CUDA. What is trained is always float32."
    )

    cast_lm_head_to_fp32: bool = Field(
        False, description="The LM head, in the sampler too, reads and multiplies in float32 whatever else is bfloat16."
    )
    micro_batch_tokens: PositiveInt | Literal["auto"] = Field(
        "auto", description="Tokens in one forward and backward pass; auto: 2,048 on a CPU, 16,384 on a GPU."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute activations: less memory, a third more time; compiled kernels do so above 1 GiB.",
    )


class RolloutConfig(PolicyConfig):
    """What every recipe has that samples answers to problems and scores them.

    A *rollout* is one generation phase of ``problems_per_rollout`` x ``num_generations`` completions.
    """

    method: str = Field("", description="Training method.")
    problems: Names = Field(("countdown3",), description="Problems: names of built-in generators, or files.")
    prompt_column: str = Field("", description="Column of the problems' prompts; empty: the usual names are tried.")
    answer_column: str = Field("", description="Column of the gold answers; empty: the usual names are tried.")
    problem_kind: Literal[
        "auto", "math", "countdown", "exact", "choice", "logic", "code", "spans", "instruction", "safety", "general"
    ] = Field("auto", description="How the problems' answers are checked; auto infers it row by row.")
    eval_problems: Names = Field((), description="Held-out sets, the first is eval/*; empty: held-out of `problems`.")
    eval_size: PositiveInt = Field(512, description="Problems per held-out set, one sample each.")
    eval_every: Count = Field(50, description="Steps between evaluations; 0: only at the start and the end.")
    eval_every_set: bool = Field(False, description="Ask all sets every time; else the others only first and last.")
    eval_temperature: NonNegativeFloat = Field(1.0, description="Sampling temperature in evaluation; 0 is greedy.")
    eval_top_p: Fraction01 = Field(1.0, description="Nucleus sampling in evaluation.")

    problems_per_rollout: PositiveInt = Field(32, description="Distinct problems in one generation phase.")
    num_generations: int = Field(8, ge=2, description="Completions per problem: the group GRPO compares.")
    temperature: PositiveFloat = Field(1.0, description="Sampling temperature in training; ratios use it too.")
    top_p: Fraction01 = Field(
        1.0, description="Nucleus sampling in training; only 1.0 is unbiased, others are refused."
    )
    max_prompt_length: PositiveInt = Field(512, description="Longest prompt in tokens; longer problems are left out.")
    max_completion_length: PositiveInt = Field(1024, description="Longest completion in tokens.")
    stop: Names = Field((), description="Strings that end a completion (kept in its text).")

    reward_funcs: Names = Field(
        ("accuracy", "format"), description="Reward terms: built-in names, module:function or file.py:function."
    )
    reward_weights: Floats = Field((), description="A weight per reward term; empty: all 1.")
    reward_gates: NamesByName = Field(
        {}, description='Term -> terms that must be at least 0.5 for it to count: {length = "accuracy"}.'
    )
    reward_kinds: NamesByName = Field(
        {}, description='Term -> kinds of problems it applies to: {repetition = ["math", "code"]}.'
    )
    language: str = Field("en", description="Language of problems whose row and prompt do not tell theirs.")
    soft_punish_cache: OptionalPositiveInt = Field(
        None, description="Tokens before the limit over which `length` falls to -1; none: a fifth of the limit (DAPO)."
    )
    cosine_correct: Pair = Field(
        (2.0, 1.0), description="Reward `cosine` of right answers at length 0 and at the limit."
    )
    cosine_wrong: Pair = Field((-10.0, 0.0), description="The same of wrong answers.")
    cosine_exceed: float = Field(-10.0, description="Reward `cosine` of completions that reach the limit.")
    repetition_n_grams: PositiveInt = Field(40, description="Words of the n-grams that `repetition` compares.")
    repetition_max_penalty: Annotated[float, Field(le=0)] = Field(
        -1.0, description="Reward `repetition` were everything repeated."
    )
    code_isolation: Literal[
        "namespaces", "no-namespaces", "unsafe", "bubblewrap", "docker", "podman", "gvisor", "sandbox-fusion"
    ] = Field(
        "namespaces",
        description="What must hold before a model's program runs (unsafe: nothing, at your own risk), or the backend "
        "that runs it.",
    )
    code_server: str = Field("", description="Address of the server that sandbox-fusion sends programs to.")
    code_score: Literal["all", "fraction"] = Field(
        "all", description="Accuracy of a program: 1 where all tests pass, or the fraction that does."
    )
    code_time_limit: PositiveFloat = Field(2.0, description="Processor seconds of one run of a program.")
    overlap_scoring: Literal["auto"] | bool = Field(
        "auto", description="Check math and code while sampling goes on; auto: where sampling leaves cores free."
    )
    prefill_think: bool = Field(False, description="Append <think> to the prompt; the format reward knows of it.")

    engine_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Type of the sampler's weights; auto is bfloat16 where the machine is fast with it."
    )
    engine_max_batch: PositiveInt = Field(256, description="Completions sampled at the same time.")
    save_rollouts: bool = Field(True, description="Write every graded completion; resume then never samples twice.")
    sample_every: Count = Field(10, description="Steps between completions shown in the terminal; 0: none.")
    log_completions: bool = Field(True, description="Send completions to the trackers too, every sample_every steps.")

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps that one rollout feeds."""
        return 1

    @property
    @abstractmethod
    def problems_wanted(self) -> int:
        """How many problems the whole run asks, at most."""


class SupervisedKeys(Frozen):
    """What every recipe has that learns from whole examples, epoch by epoch."""

    num_train_epochs: PositiveFloat = Field(2.0, description="Passes over the examples.")
    max_steps: Count = Field(0, description="Optimizer steps of the whole run; 0: as many as the epochs take.")
    batch_size: PositiveInt = Field(64, description="Examples of one optimizer step.")
    max_length: PositiveInt = Field(
        32_768, description="Longest example in tokens, prompt included; longer ones are left out, never cut."
    )
    packing: bool = Field(True, description="Lay whole examples end to end without padding; none sees another.")
    loss_average: Literal["tokens", "sequences"] = Field(
        "tokens", description="Mean over the step's trained tokens, or over its examples' means."
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.03, description="Linear warm-up as a share of all steps, where warmup_steps is 0."
    )
    learning_rate: PositiveFloat = Field(5e-5, description="Peak learning rate of AdamW.")
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_min_lr"] = Field(
        "cosine", description="Learning rate after the warm-up."
    )
    min_lr_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Final learning rate of linear and cosine as a share of the peak."
    )


def optimizer_complaints(config: PolicyConfig) -> list[str]:
    """What is wrong between the keys of optimizer, schedule and adapter."""
    complaints = []
    if config.lr_scheduler_type == "cosine_with_min_lr" and not config.min_lr_rate:
        complaints.append('lr_scheduler_type = "cosine_with_min_lr" needs min_lr_rate > 0, such as 0.1')
    if config.dtype == "bfloat16" and not config.use_peft:
        complaints.append(
            'dtype = "bfloat16" is for frozen weights (use_peft = true): weights that are trained stay float32, and '
            'autocast = "bf16" computes in bfloat16'
        )
    return complaints
