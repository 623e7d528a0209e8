"""Configurations: short, flat YAML with the field's names -> validated, frozen objects.

Every mistake becomes one line that names the key, the value, what is allowed and the nearest spelling.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 2**20, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
Width = Annotated[int, Field(ge=1, strict=True)]
Activation = Literal["tanh", "relu", "elu", "gelu", "silu"]
SurrogateName = Literal["ppo", "lvc", "vpg", "dice", "loaded_dice"]
Differentiation = Literal["reverse", "mixed", "first_order"]


class ConfigError(ValueError):
    """A mistake of the user's, worded for them: the command line prints it and exits with status 2."""


class RunConfig(BaseModel):
    """What every run has."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    env: str = Field(description="environment name, see `metarl list`; gymnax:<id> for any gymnax environment")
    env_options: dict[str, Any] = Field({}, description="options of that environment, such as num_arms: 10")
    seed: Seed = Field(0, description="seed of the first training seed; the others count up from it")
    num_seeds: Positive = Field(1, description="independent trainings, in one program")
    seeds_per_batch: Positive | None = Field(
        None, description="seeds trained at a time; null: one on a CPU, all on an accelerator"
    )
    num_iterations: Positive = Field(description="training iterations")
    log_every: Positive = Field(
        1, description="iterations in one compiled call (or a divisor that fits); metrics still list each"
    )
    checkpoint_every: Positive = Field(50, description="iterations between checkpoints; the last always has one")
    task_seed: Seed = Field(0, description="names the held-out tasks; the same for all runs to be compared")
    eval_tasks: Positive = Field(40, description="held-out tasks")
    eval_episodes: Positive | None = Field(None, description="episodes a task and update; null: as at training")


class _PolicyConfig(RunConfig):
    hidden: list[Width] = Field([64, 64], description="hidden layer widths; [] is a linear policy")
    activation: Activation = Field("tanh", description="activation function")
    init_std: Rate = Field(1.0, description="initial standard deviation of a Gaussian policy")
    gamma: Unit = Field(0.99, description="discount")
    entropy_coef: NonNegative = Field(0.0, description="weight of the entropy bonus")
    value_coef: NonNegative = Field(0.5, description="weight of the critic's loss")


class MAMLConfig(_PolicyConfig):
    """MAML with policy-gradient or PPO updates inside and outside."""

    algorithm: Literal["maml"] = Field(description="maml, ppo or supervised_maml")
    horizon: Positive | None = Field(None, description="steps an episode; null: the environment's own")
    meta_batch_size: Positive = Field(40, description="tasks an iteration")
    episodes_per_task: Positive = Field(20, description="episodes a task, before and after each inner update")
    num_inner_steps: Count = Field(1, description="inner updates K; 0 is multi-task PPO without adaptation")
    inner_surrogate: SurrogateName = Field("ppo", description="surrogate of the inner update")
    inner_lr: Rate = Field(0.1, description="inner step size")
    inner_epochs: Positive = Field(1, description="passes over the data in one inner update")
    inner_minibatches: Positive = Field(1, description="parts of each pass; must divide episodes x horizon")
    inner_clip_eps: Rate = Field(0.3, description="PPO clip of the inner update")
    dice_lambda: Unit = Field(1.0, description="lambda of loaded_dice")
    gae_lambda: Unit = Field(1.0, description="lambda of generalised advantage estimation")
    baseline: Literal["linear", "critic", "zero"] = Field("linear", description="baseline of the advantages")
    normalize_advantage: bool = Field(True, description="standardise advantages per task")
    differentiation: Differentiation = Field(
        "mixed", description="meta-gradient through an inner step; first_order is FOMAML"
    )
    outer_surrogate: SurrogateName = Field("ppo", description="surrogate of the meta-loss")
    outer_lr: Rate = Field(1e-3, description="Adam step size of the outer update")
    outer_epochs: Positive = Field(5, description="outer steps on each set of stored trials")
    outer_clip_eps: Rate = Field(0.3, description="PPO clip of the outer update")
    max_grad_norm: Rate | None = Field(None, description="bound on the norm of the meta-gradient")
    tasks_per_batch: Positive | None = Field(
        None, description="tasks processed at a time; null: one on a CPU, all on an accelerator"
    )
    eval_updates: Count = Field(3, description="inner updates at evaluation")

    @model_validator(mode="after")
    def _sizes(self) -> "MAMLConfig":
        _no_minibatches_over_time(self.inner_surrogate, self.inner_minibatches)
        on_policy = ("vpg", "dice", "loaded_dice")  # losses.ON_POLICY, without importing jax
        for key, epochs in (("inner_epochs", self.inner_epochs), ("outer_epochs", self.outer_epochs)):
            for name in ("inner_surrogate", "outer_surrogate"):
                value = getattr(self, name)
                if epochs > 1 and value in on_policy and (key, name) != ("inner_epochs", "outer_surrogate"):
                    raise ConfigError(
                        f"{key} = {epochs}: must be 1 with {name} = {value}, which has no likelihood ratio; "
                        "use lvc or ppo"
                    )
        if self.horizon is not None:
            steps = self.episodes_per_task * self.horizon
            _divides("inner_minibatches", self.inner_minibatches, steps, "episodes_per_task * horizon")
            steps = (self.eval_episodes or self.episodes_per_task) * self.horizon
            _divides("inner_minibatches", self.inner_minibatches, steps, "eval_episodes * horizon")
        return self


class PPOConfig(_PolicyConfig):
    """PPO on one environment."""

    algorithm: Literal["ppo"] = Field(description="maml, ppo or supervised_maml")
    lr: Rate = Field(2.5e-4, description="Adam step size")
    anneal_lr: bool = Field(True, description="anneal the step size linearly to 0")
    num_envs: Positive = Field(4, description="parallel environments")
    num_steps: Positive = Field(128, description="steps of each environment an iteration")
    num_epochs: Positive = Field(4, description="passes over the data an iteration")
    num_minibatches: Positive = Field(4, description="parts of each pass; must divide num_envs x num_steps")
    clip_eps: Rate = Field(0.2, description="PPO clip")
    value_clip_eps: Rate | None = Field(0.2, description="clip of the value loss; null: none")
    gae_lambda: Unit = Field(0.95, description="lambda of generalised advantage estimation")
    entropy_coef: NonNegative = Field(0.01, description="weight of the entropy bonus")
    max_grad_norm: Rate = Field(0.5, description="bound on the gradient's norm")
    eval_tasks: Literal[1] = Field(1, description="the task it was trained on")
    eval_episodes: Positive = Field(100, description="evaluation episodes")

    @model_validator(mode="after")
    def _sizes(self) -> "PPOConfig":
        _divides("num_minibatches", self.num_minibatches, self.num_envs * self.num_steps, "num_envs * num_steps")
        return self


class SupervisedMAMLConfig(RunConfig):
    """Few-shot regression with MAML."""

    algorithm: Literal["supervised_maml"] = Field(description="maml, ppo or supervised_maml")
    hidden: list[Width] = Field([40, 40], description="hidden layer widths")
    activation: Activation = Field("relu", description="activation function")
    shots: Positive = Field(10, description="labelled examples that adaptation sees")
    queries: Positive = Field(10, description="labelled examples of the meta-loss")
    num_inner_steps: Count = Field(1, description="gradient steps on the shots")
    inner_lr: Rate = Field(0.01, description="inner step size")
    outer_lr: Rate = Field(1e-3, description="Adam step size of the outer update")
    meta_batch_size: Positive = Field(25, description="tasks an iteration")
    differentiation: Differentiation = Field("reverse", description="meta-gradient; first_order is FOMAML")
    eval_tasks: Positive = Field(1000, description="held-out tasks")
    eval_episodes: Positive = Field(100, description="query examples a task")
    eval_updates: Count = Field(3, description="gradient steps at evaluation")


Config = MAMLConfig | PPOConfig | SupervisedMAMLConfig
SCHEMAS: dict[str, type[RunConfig]] = {"maml": MAMLConfig, "ppo": PPOConfig, "supervised_maml": SupervisedMAMLConfig}


def _divides(name: str, parts: int, size: int, of: str) -> None:
    if size % parts:
        raise ConfigError(f"{name} = {parts}: must divide {of} = {size}; try {_nearest_divisor(parts, size)}")


def _nearest_divisor(wanted: int, size: int) -> int:
    return min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: abs(d - wanted))


def _no_minibatches_over_time(surrogate: str, minibatches: int) -> None:
    if minibatches > 1 and surrogate in ("dice", "loaded_dice"):
        raise ConfigError(
            f"inner_minibatches = {minibatches}: must be 1 with inner_surrogate = {surrogate}, "
            "which needs whole episodes"
        )


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file (safe loader: data only), apply `key=value` overrides, validate.

    Raises: ConfigError, one line.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror or error}{_nearby(Path(path))}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config {path}: not a text file") from None
    data = _parse(text, f"config {path}")
    if not isinstance(data, dict):
        raise ConfigError(f"config {path}: must be a list of `key: value` lines, not {type(data).__name__}")
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r}: must be key=value")
        target, last = data, key.strip()
        if last.startswith("env_options."):
            target, last = data.get("env_options") or {}, last.removeprefix("env_options.")
            if not isinstance(target, dict):
                raise ConfigError(f"env_options = {target!r}: must be a mapping")
            data["env_options"] = target
        target[last] = _parse(value, f"override {override!r}")
    return validate(data)


def validate(data: dict[str, Any]) -> Config:
    """A dictionary -> the frozen configuration of its `algorithm`."""
    name = data.get("algorithm")
    if name is None:
        raise ConfigError(f"algorithm is missing: must be one of {', '.join(SCHEMAS)}")
    if not isinstance(name, str) or name not in SCHEMAS:
        raise ConfigError(f"algorithm = {name!r}: must be one of {', '.join(SCHEMAS)}{_suggest(str(name), SCHEMAS)}")
    schema = SCHEMAS[name]
    for key in data:
        if key not in schema.model_fields:
            hint = _suggest(str(key), schema.model_fields) or f"; `metarl show {name}` lists them"
            raise ConfigError(f"{key} = {data[key]!r}: not a key of algorithm {name}{hint}")
    try:
        return schema(**data)  # type: ignore[return-value]
    except ValidationError as error:
        raise ConfigError(_one_line(error, schema)) from None


def _one_line(error: ValidationError, schema: type[RunConfig]) -> str:
    first = error.errors()[0]
    if isinstance(first.get("ctx", {}).get("error"), ConfigError):
        return str(first["ctx"]["error"])
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("constrained", "function-")))
    field = schema.model_fields.get(str(first["loc"][0])) if first["loc"] else None
    about = f" ({field.description})" if field is not None else ""
    if first["type"] == "missing":
        return f"{key} is missing{about}"
    words = {
        "int_type": "must be a whole number",
        "int_parsing": "must be a whole number",
        "float_type": "must be a number",
        "float_parsing": "must be a number",
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "string_type": "must be text",
        "list_type": "must be a list such as [64, 64]",
        "dict_type": "must be a mapping",
    }
    allowed = words.get(first["type"]) or first["msg"].replace("Input should be", "must be")
    value = first["input"]
    expected = first.get("ctx", {}).get("expected")
    hint = _suggest(str(value), str(expected).replace(" or ", ", ").replace("'", "").split(", ")) if expected else ""
    return f"{key} = {value!r}: {allowed}{hint}{about}"


def _suggest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _nearby(path: Path) -> str:
    try:
        siblings = [str(p) for p in path.parent.glob("*.yaml")]
    except OSError:
        return ""
    return _suggest(str(path), siblings)


class _Loader(yaml.SafeLoader):
    """The safe loader, reading 1e-3 as a number (YAML 1.1 wants 1.0e-3) and refusing duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        twice = next((k for k in keys if keys.count(k) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"{twice} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None


def dump(config: Config) -> str:
    """The resolved configuration as YAML, every field written out."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def describe(name: str) -> list[tuple[str, str, str]]:
    """(key, default, description) of every field of an algorithm's configuration."""
    rows = []
    for key, field in SCHEMAS[name].model_fields.items():
        default = "required" if field.is_required() else yaml.safe_dump(field.default, default_flow_style=True)
        rows.append((key, default.removesuffix("\n").removesuffix("\n...").strip(), field.description or ""))
    return rows
