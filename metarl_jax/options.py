"""What the configurations of all algorithms share: types of values, the keys of a run, how a mistake is worded."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 2**20, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
Activation = Literal["tanh", "relu", "elu", "gelu", "silu"]
Width = Annotated[int, Field(ge=1, strict=True)]

ALGORITHM = "what trains; `metarl list` names them"


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


def check_divides(name: str, parts: int, size: int, of: str) -> None:
    if size % parts:
        raise ConfigError(f"{name} = {parts}: must divide {of} = {size}; try {_nearest_divisor(parts, size)}")


def _nearest_divisor(wanted: int, size: int) -> int:
    return min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: abs(d - wanted))
