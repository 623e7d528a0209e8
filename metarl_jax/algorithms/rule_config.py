"""The keys of the algorithms that learn what agents learn by: an update, a surrogate, a reward."""

from typing import Literal, Self

from pydantic import Field, model_validator

from metarl_jax.options import (
    ALGORITHM,
    Activation,
    ConfigError,
    NonNegative,
    Positive,
    Rate,
    RunConfig,
    Unit,
    Width,
    check_divides,
)


class RuleConfig(RunConfig):
    """What every learner of rules has: agents with lifetimes, and how the rule is moved."""

    algorithm: str
    outer: Literal["gradient", "evolution"] = Field(
        "gradient", description="meta-gradients through updates of living agents, or OpenAI-ES on whole lives"
    )
    hidden: list[Width] = Field([64, 64], description="hidden layer widths of the agents; [] is a linear policy")
    activation: Activation = Field("tanh", description="activation function")
    init_std: Rate = Field(1.0, description="initial standard deviation of a Gaussian policy")
    gamma: Unit = Field(0.99, description="discount of the agents")
    gae_lambda: Unit = Field(0.95, description="lambda of generalised advantage estimation of the agents")
    lr: Rate = Field(1e-3, description="step size of the agents")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="optimiser of the agents")
    entropy_coef: NonNegative = Field(0.01, description="weight of the entropy bonus of the agents")
    value_coef: NonNegative = Field(0.5, description="weight of the loss of the agents' critics")
    clip_eps: Rate = Field(0.2, description="PPO clip of the agents; lpo: of the PPO that it begins at")
    max_grad_norm: Rate | None = Field(0.5, description="bound on the norm of an agent's gradient; null: none")
    num_envs: Positive = Field(16, description="parallel environments of an agent")
    num_steps: Positive = Field(32, description="steps of each environment an update")
    num_epochs: Positive = Field(1, description="passes over the data an update")
    num_minibatches: Positive = Field(1, description="parts of each pass; must divide num_envs x num_steps")
    horizon: Positive | None = Field(None, description="steps of an evaluation episode; null: the environment's own")
    num_agents: Positive = Field(16, description="agents that live at a time; evolution: tasks of a generation")
    lifetime: Positive | None = Field(100, description="updates until an agent is replaced; null: never")
    agents_per_batch: Positive | None = Field(
        None, description="agents processed at a time; null: one on a CPU, all on an accelerator"
    )
    num_inner_steps: Positive = Field(5, description="gradient: updates K that the meta-gradient goes through")
    outer_lr: Rate = Field(1e-3, description="Adam step size of the rule")
    outer_max_grad_norm: Rate | None = Field(0.5, description="gradient: bound on the meta-gradient; null: none")
    outer_gamma: Unit = Field(0.99, description="gradient: discount of the meta-loss")
    outer_gae_lambda: Unit = Field(0.95, description="gradient: lambda of the meta-loss")
    outer_entropy_coef: NonNegative = Field(0.0, description="gradient: weight of the entropy bonus of the meta-loss")
    critic_lr: Rate = Field(1e-3, description="gradient: step size of the critic that judges an agent")
    population_size: Positive = Field(32, description="evolution: rules of a generation, an even number")
    sigma: Rate = Field(0.05, description="evolution: standard deviation of the rules around their mean")
    eval_episodes: Positive = Field(16, description="episodes that score an agent after each stage of its life")
    eval_updates: Positive = Field(8, description="stages that a scored life is cut into; must divide it")
    eval_lifetime: Positive | None = Field(None, description="updates of a life at evaluation; null: lifetime")
    rival_lr: Rate | None = Field(None, description="step size of the PPO or A2C beside it at evaluation; null: lr")

    @model_validator(mode="after")
    def _lives(self) -> Self:
        check_divides("num_minibatches", self.num_minibatches, self.num_envs * self.num_steps, "num_envs * num_steps")
        if self.lifetime is not None and self.outer == "gradient":
            check_divides("num_inner_steps", self.num_inner_steps, self.lifetime, "lifetime")
        if self.outer == "evolution":
            if self.lifetime is None:
                raise ConfigError(
                    "lifetime = null: evolution judges a rule by whole lives; give it a number of updates"
                )
            check_divides("eval_updates", self.eval_updates, self.lifetime, "lifetime")
            if self.population_size % 2:
                raise ConfigError(
                    f"population_size = {self.population_size}: must be even, as rules come in antithetic pairs"
                )
        if self.lifetime is None and self.eval_lifetime is None:
            raise ConfigError("eval_lifetime is missing: with lifetime = null nothing says how long a life is")
        lived = self.eval_lifetime or self.lifetime or 1
        check_divides("eval_updates", self.eval_updates, lived, "eval_lifetime (or lifetime)")
        return self


class LPGConfig(RuleConfig):
    """A network that is the update: it says what policy and prediction move towards."""

    # Agents have no critic and no returns of their own: these four are of the A2C that they are compared with.
    gamma: Unit = Field(0.99, description="discount of the A2C beside it")
    gae_lambda: Unit = Field(0.95, description="lambda of the A2C beside it")
    entropy_coef: NonNegative = Field(0.01, description="weight of the entropy bonus of the A2C beside it")
    value_coef: NonNegative = Field(0.5, description="weight of the critic's loss of the A2C beside it")

    algorithm: Literal["lpg"] = Field(description=ALGORITHM)
    outcomes: Positive = Field(8, description="outcomes m of the agents' prediction")
    width: Width = Field(64, description="units of the rule's GRU")
    prediction_coef: NonNegative = Field(0.5, description="weight of the prediction's loss")
    pi_hat_coef: NonNegative = Field(5e-3, description="weight of |pi_hat|^2 in the meta-loss")
    y_hat_coef: NonNegative = Field(1e-3, description="weight of |y_hat|^2 in the meta-loss")
    prediction_entropy_coef: NonNegative = Field(
        1e-3, description="weight of the prediction's entropy in the meta-loss"
    )
    outer_entropy_coef: NonNegative = Field(0.05, description="gradient: weight of the entropy bonus of the meta-loss")
    num_epochs: Literal[1] = Field(1, description="1: the rule has no ratio")  # type: ignore[assignment]
    num_minibatches: Literal[1] = Field(1, description="1: the rule reads whole rollouts")  # type: ignore[assignment]


class LPOConfig(RuleConfig):
    """PPO with a learned drift in the place of its clip."""

    algorithm: Literal["lpo"] = Field(description=ALGORITHM)
    width: Width = Field(128, description="units of the drift network")
    start: Literal["clip", "random"] = Field("clip", description="the drift to begin at: PPO's, or a random one")
    num_epochs: Positive = Field(4, description="passes over the data an update")
    num_minibatches: Positive = Field(4, description="parts of each pass; must divide num_envs x num_steps")

    @model_validator(mode="after")
    def _steps(self) -> Self:
        if self.num_epochs * self.num_minibatches == 1:
            raise ConfigError(
                "num_epochs = 1 with num_minibatches = 1: the ratio is 1 and the drift 0; make more steps an update"
            )
        return self


class LIRPGConfig(RuleConfig):
    """PPO on the environment's reward and a learned one."""

    algorithm: Literal["lirpg"] = Field(description=ALGORITHM)
    intrinsic_coef: Rate = Field(0.01, description="weight of the learned reward, which is between -1 and 1")
    extrinsic_coef: NonNegative = Field(1.0, description="weight of the environment's reward to the agents")
    reward_hidden: list[Width] = Field([64, 64], description="hidden layer widths of the learned reward")
    surrogate: Literal["vpg", "ppo", "lvc"] = Field("ppo", description="surrogate of the updates; vpg: A2C")

    @model_validator(mode="after")
    def _ratio(self) -> Self:
        if self.surrogate == "vpg" and self.num_epochs * self.num_minibatches > 1:
            raise ConfigError("surrogate = vpg: has no ratio, so num_epochs and num_minibatches must be 1; use ppo")
        return self
