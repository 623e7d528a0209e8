"""The keys of every algorithm's configuration: types, defaults, descriptions, and what does not fit together."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from metarl_jax.algorithms.rule_config import LIRPGConfig, LPGConfig, LPOConfig, RuleConfig
from metarl_jax.algorithms.trial_config import RL2Config, TrialConfig, VariBADConfig
from metarl_jax.options import (
    ALGORITHM,
    Activation,
    ConfigError,
    Count,
    Finite,
    NonNegative,
    Positive,
    Rate,
    RunConfig,
    Unit,
    Width,
    check_divides,
)

SurrogateName = Literal["ppo", "lvc", "vpg", "dice", "loaded_dice", "tmaml"]
InnerSurrogate = Literal["lvc", "vpg", "dice", "loaded_dice", "tmaml"]
Differentiation = Literal["reverse", "mixed", "first_order", "truncated", "implicit", "evolution"]
ON_POLICY = ("vpg", "dice", "loaded_dice", "tmaml")  # losses.ON_POLICY and the two below, without importing jax
NEEDS_TIME = ("dice", "loaded_dice", "tmaml")
NEEDS_REWARDS = ("dice", "tmaml")


class _PolicyConfig(RunConfig):
    hidden: list[Width] = Field([64, 64], description="hidden layer widths; [] is a linear policy")
    activation: Activation = Field("tanh", description="activation function")
    init_std: Rate = Field(1.0, description="initial standard deviation of a Gaussian policy")
    gamma: Unit = Field(0.99, description="discount")
    entropy_coef: NonNegative = Field(0.0, description="weight of the entropy bonus")
    value_coef: NonNegative = Field(0.5, description="weight of the critic's loss")


class GradientConfig(_PolicyConfig):
    """What every gradient-based meta-learner on episodes has."""

    algorithm: str
    horizon: Positive | None = Field(None, description="steps an episode; null: the environment's own")
    meta_batch_size: Positive = Field(40, description="tasks an iteration")
    episodes_per_task: Positive = Field(20, description="episodes a task, before and after each inner update")
    num_inner_steps: Count = Field(1, description="inner updates K; 0 is multi-task training without adaptation")
    inner_lr: Rate = Field(0.1, description="inner step size")
    inner_surrogate: Any = Field("lvc", description="surrogate of the inner update")
    dice_lambda: Unit = Field(1.0, description="lambda of loaded_dice")
    gae_lambda: Unit = Field(1.0, description="lambda of generalised advantage estimation")
    baseline: Literal["linear", "critic", "zero"] = Field("linear", description="baseline of the advantages")
    normalize_advantage: bool = Field(True, description="standardise advantages per task")
    target_return: Finite | None = Field(
        None,
        description="discounted return that inner steps aim at, shorter the nearer it is; null: the more the better",
    )
    differentiation: Differentiation = Field(
        "mixed", description="how the meta-gradient gets through the inner updates"
    )
    truncation_window: Count | None = Field(None, description="last inner updates that `truncated` differentiates")
    evolution_pairs: Positive = Field(64, description="antithetic perturbations a task of `evolution`")
    evolution_sigma: Rate = Field(0.02, description="standard deviation of the perturbations of `evolution`")
    exploration_coef: NonNegative = Field(0.0, description="weight of E-MAML's sampling-dependence term")
    inner_microbatches: Positive = Field(
        1, description="parts of the episodes that an inner gradient is added up over: the same number, less memory"
    )
    tasks_per_batch: Positive | None = Field(
        None, description="tasks processed at a time; null: one on a CPU, all on an accelerator"
    )
    eval_updates: Count = Field(3, description="inner updates at evaluation")
    eval_later_lr_scale: Rate = Field(1.0, description="factor on inner_lr after the first update, at evaluation")

    @model_validator(mode="after")
    def _sense(self) -> Self:
        if self.differentiation == "truncated":
            if self.truncation_window is None:
                raise ConfigError("truncation_window is missing: differentiation = truncated needs it")
            if self.truncation_window > self.num_inner_steps:
                raise ConfigError(
                    f"truncation_window = {self.truncation_window}: is longer than the inner loop, num_inner_steps = "
                    f"{self.num_inner_steps}; use at most that, or differentiation = mixed for all of it"
                )
        if self.differentiation == "evolution" and self.num_inner_steps == 0:
            raise ConfigError("differentiation = evolution: needs num_inner_steps of at least 1; use mixed for none")
        for key in ("episodes_per_task", "eval_episodes"):
            check_divides(
                "inner_microbatches", self.inner_microbatches, getattr(self, key) or self.episodes_per_task, key
            )
        if self.inner_surrogate in NEEDS_REWARDS and self.gae_lambda != 1:
            raise ConfigError(
                f"gae_lambda = {self.gae_lambda}: must be 1 with inner_surrogate = {self.inner_surrogate}, which "
                "weighs whole returns (GAE on top counts the future twice); use loaded_dice, which takes any advantages"
            )
        self._implicit()
        return self

    def _implicit(self) -> None:
        if self.differentiation == "implicit":
            raise ConfigError(
                "differentiation = implicit: needs an inner update that descends one regularised loss to its minimum, "
                "without minibatches; use algorithm imaml, or differentiation = mixed"
            )


class _AdamConfig(GradientConfig):
    outer_surrogate: SurrogateName = Field("ppo", description="surrogate of the meta-loss")
    outer_lr: Rate = Field(1e-3, description="Adam step size of the outer update")
    outer_epochs: Positive = Field(5, description="outer steps on each set of stored trials")
    outer_clip_eps: Rate = Field(0.3, description="PPO clip of the outer update")
    max_grad_norm: Rate | None = Field(None, description="bound on the norm of the meta-gradient")

    @model_validator(mode="after")
    def _outer(self) -> Self:
        for name in ("inner_surrogate", "outer_surrogate"):
            _no_epochs_on_policy("outer_epochs", self.outer_epochs, name, getattr(self, name))
        if self.exploration_coef and self.outer_surrogate in NEEDS_REWARDS:
            raise ConfigError(
                f"exploration_coef = {self.exploration_coef}: needs an outer_surrogate of advantages, not "
                f"{self.outer_surrogate}; use loaded_dice, lvc or ppo"
            )
        return self


class MAMLConfig(_AdamConfig):
    """MAML with policy-gradient or PPO updates inside, Adam outside."""

    algorithm: Literal["maml"] = Field(description=ALGORITHM)
    inner_surrogate: SurrogateName = Field("ppo", description="surrogate of the inner update")
    inner_epochs: Positive = Field(1, description="passes over the data in one inner update")
    inner_minibatches: Positive = Field(1, description="parts of each pass; must divide episodes x horizon")
    inner_clip_eps: Rate = Field(0.3, description="PPO clip of the inner update")

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.inner_minibatches > 1 and self.inner_surrogate in NEEDS_TIME:
            raise ConfigError(
                f"inner_minibatches = {self.inner_minibatches}: must be 1 with inner_surrogate = "
                f"{self.inner_surrogate}, which needs whole episodes"
            )
        _no_epochs_on_policy("inner_epochs", self.inner_epochs, "inner_surrogate", self.inner_surrogate)
        if self.horizon is not None:
            steps = self.episodes_per_task * self.horizon
            check_divides("inner_minibatches", self.inner_minibatches, steps, "episodes_per_task * horizon")
            steps = (self.eval_episodes or self.episodes_per_task) * self.horizon
            check_divides("inner_minibatches", self.inner_minibatches, steps, "eval_episodes * horizon")
        return self


class MAMLTRPOConfig(GradientConfig):
    """MAML with a policy-gradient step inside, a trust region outside."""

    algorithm: Literal["maml_trpo"] = Field(description=ALGORITHM)
    inner_surrogate: InnerSurrogate = Field("lvc", description="surrogate of the inner update")
    baseline: Literal["linear", "zero"] = Field("linear", description="baseline of the advantages")
    max_kl: Rate = Field(0.01, description="bound on the mean KL of an outer update, in nats")
    cg_steps: Positive = Field(10, description="conjugate-gradient steps")
    cg_damping: NonNegative = Field(1e-5, description="added to the Fisher matrix")
    fisher_tasks: Positive | None = Field(None, description="tasks that the Fisher matrix is estimated on; null: all")
    line_search_steps: Positive = Field(15, description="step sizes tried at most")
    backtrack: Annotated[float, Field(gt=0, lt=1)] = Field(0.8, description="factor between the step sizes tried")

    @model_validator(mode="after")
    def _fisher(self) -> Self:
        if self.differentiation == "evolution":
            raise ConfigError("differentiation = evolution: gives no Fisher matrix; use mixed, or algorithm maml")
        return self


class ProMPConfig(_AdamConfig):
    """Proximal meta-policy search: likelihood ratios inside, clipped outside, a KL penalty on sampling."""

    algorithm: Literal["promp"] = Field(description=ALGORITHM)
    inner_surrogate: Literal["lvc"] = Field("lvc", description="surrogate of the inner update")
    outer_surrogate: Literal["ppo"] = Field("ppo", description="surrogate of the meta-loss")
    kl_coef: NonNegative = Field(5e-4, description="weight of the inner KL penalty")
    kl_target: Rate | None = Field(None, description="inner KL that the weight adapts towards; null: it is fixed")


class EMAMLConfig(_AdamConfig):
    """MAML with the term for how the policy chooses what it adapts to."""

    algorithm: Literal["e_maml"] = Field(description=ALGORITHM)
    outer_epochs: Positive = Field(1, description="outer steps on each set of stored trials")
    inner_surrogate: InnerSurrogate = Field("vpg", description="surrogate of the inner update")
    exploration_coef: NonNegative = Field(1.0, description="weight of E-MAML's sampling-dependence term")


class ReptileConfig(GradientConfig):
    """Steps towards the mean of the adapted parameters."""

    algorithm: Literal["reptile"] = Field(description=ALGORITHM)
    inner_surrogate: InnerSurrogate = Field("lvc", description="surrogate of the inner update")
    num_inner_steps: Positive = Field(3, description="inner updates K")
    outer_lr: Rate = Field(1.0, description="step size of the outer update; 1 moves all the way")
    differentiation: Literal["first_order"] = Field("first_order", description="Reptile differentiates no inner update")
    exploration_coef: Annotated[float, Field(ge=0, le=0)] = Field(
        0.0, description="0: Reptile has no meta-loss to add a term to"
    )


class ANILConfig(_AdamConfig):
    """MAML in which only the last layer adapts."""

    algorithm: Literal["anil"] = Field(description=ALGORITHM)
    inner_surrogate: InnerSurrogate = Field("lvc", description="surrogate of the inner update")
    head: list[str] = Field(["output"], description="parameters or modules that adapt", min_length=1)


class MetaSGDConfig(_AdamConfig):
    """MAML with a learned step size for every parameter."""

    algorithm: Literal["meta_sgd"] = Field(description=ALGORITHM)
    inner_surrogate: InnerSurrogate = Field("lvc", description="surrogate of the inner update")
    inner_lr: Rate = Field(0.1, description="what the learned step sizes start from")
    eval_later_lr_scale: Annotated[float, Field(ge=1, le=1)] = Field(1.0, description="1: the step sizes are learned")


class CAVIAConfig(_AdamConfig):
    """Only a context input adapts, the network is shared by all tasks."""

    algorithm: Literal["cavia"] = Field(description=ALGORITHM)
    inner_surrogate: InnerSurrogate = Field("lvc", description="surrogate of the inner update")
    inner_lr: Rate = Field(1.0, description="inner step size")
    context_size: Positive = Field(2, description="numbers in the context")
    baseline: Literal["linear", "zero"] = Field("linear", description="baseline of the advantages")


class IMAMLConfig(_AdamConfig):
    """MAML with implicit gradients of a regularised inner problem."""

    algorithm: Literal["imaml"] = Field(description=ALGORITHM)
    inner_surrogate: Literal["lvc", "ppo"] = Field("lvc", description="surrogate of the inner problem")
    differentiation: Differentiation = Field("implicit", description="mixed unrolls the inner problem instead")
    proximal_strength: Rate = Field(2.0, description="weight of the distance to the initial parameters")
    num_proximal_steps: Positive = Field(16, description="gradient steps on the inner problem")
    cg_steps: Positive = Field(5, description="conjugate-gradient steps of the implicit gradient")

    def _implicit(self) -> None:
        pass


class PPOConfig(_PolicyConfig):
    """PPO on one environment."""

    algorithm: Literal["ppo"] = Field(description=ALGORITHM)
    lr: Rate = Field(2.5e-4, description="Adam step size")
    anneal_lr: bool = Field(True, description="anneal the step size linearly to 0")
    num_envs: Positive = Field(4, description="parallel environments")
    num_steps: Positive = Field(128, description="steps of each environment an iteration")
    num_epochs: Positive = Field(4, description="passes over the data an iteration")
    num_minibatches: Positive = Field(4, description="parts of each pass; must divide num_envs x num_steps")
    surrogate: Literal["ppo", "smooth_ppo", "dpo", "lvc"] = Field(
        "ppo", description="surrogate of the updates; smooth_ppo: a smooth clip, dpo: a discovered one, lvc: none"
    )
    clip_eps: Rate = Field(0.2, description="PPO clip")
    value_clip_eps: Rate | None = Field(0.2, description="clip of the value loss; null: none")
    gae_lambda: Unit = Field(0.95, description="lambda of generalised advantage estimation")
    entropy_coef: NonNegative = Field(0.01, description="weight of the entropy bonus")
    max_grad_norm: Rate = Field(0.5, description="bound on the gradient's norm")
    eval_tasks: Literal[1] = Field(1, description="the task it was trained on")
    eval_episodes: Positive = Field(100, description="evaluation episodes")

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        check_divides("num_minibatches", self.num_minibatches, self.num_envs * self.num_steps, "num_envs * num_steps")
        return self


TunedName = Literal["gamma", "gae_lambda", "lr", "entropy_coef", "value_coef", "policy_coef", "clip_eps"]


class MetaGradientRLConfig(PPOConfig):
    """One agent that tunes its own hyperparameters online by meta-gradients (MG, STACX, BMG), on one environment."""

    algorithm: Literal["meta_gradient_rl"] = Field(description=ALGORITHM)  # type: ignore[assignment]
    tune: list[TunedName] = Field(
        ["gamma", "gae_lambda", "entropy_coef", "lr"], description="what is tuned, from its value here"
    )
    ranges: dict[TunedName, list[float | None]] = Field(
        {}, description="[low, high] of what is tuned, high null: none; default [0, 1] for gamma, gae_lambda, clip_eps"
    )
    objective: Literal["gradient", "bootstrapped"] = Field("gradient", description="MG, or BMG: match a later self")
    outer_critic: bool = Field(True, description="learn the values of outer_gamma beside the agent's own")
    num_inner_steps: Positive = Field(1, description="updates K that the meta-gradient goes through")
    num_target_steps: Positive = Field(1, description="bootstrapped: further updates L to the target")
    recent: Count = Field(0, description="a network of the mean rewards of so many rollouts tunes; 0: numbers do")
    meta_hidden: list[Width] = Field([32], description="recent > 0: hidden layer widths of that network")
    meta_lr: Rate = Field(3e-3, description="Adam step size of the unconstrained hyperparameters")
    meta_max_grad_norm: Rate | None = Field(0.1, description="bound on the norm of the meta-gradient; null: none")
    outer_gamma: Unit = Field(0.99, description="discount of the outer loss, fixed")
    outer_gae_lambda: Unit = Field(0.95, description="lambda of the outer loss, fixed")
    outer_entropy_coef: NonNegative = Field(0.0, description="weight of the outer entropy bonus")
    surrogate: Literal["vpg", "lvc", "ppo", "smooth_ppo", "dpo"] = Field(  # type: ignore[assignment]
        "vpg", description="surrogate of the updates; vpg: A2C"
    )
    policy_coef: Rate = Field(1.0, description="weight of the surrogate")
    lr: Rate = Field(1e-3, description="Adam step size of the agent")
    anneal_lr: Literal[False] = Field(False, description="false: the step size is tuned or constant")  # type: ignore[assignment]
    num_envs: Positive = Field(16, description="parallel environments")
    num_steps: Positive = Field(32, description="steps of each environment an update")
    num_epochs: Positive = Field(1, description="passes over the data an update")
    num_minibatches: Positive = Field(1, description="parts of each pass; must divide num_envs x num_steps")
    value_clip_eps: Rate | None = Field(None, description="clip of the value loss; null: none")

    @model_validator(mode="after")
    def _updates(self) -> Self:
        for name, limits in self.ranges.items():
            if name not in self.tune:
                raise ConfigError(f"ranges = {name}: is not in tune = {self.tune}")
            if len(limits) != 2 or limits[0] is None:
                raise ConfigError(f"ranges.{name} = {limits}: must be [low, high], high null for none")
        if self.surrogate == "vpg" and self.num_epochs * self.num_minibatches > 1:
            raise ConfigError("surrogate = vpg: has no ratio, so num_epochs and num_minibatches must be 1; use ppo")
        if "clip_eps" in self.tune and self.surrogate != "smooth_ppo":
            raise ConfigError(f"tune = clip_eps with surrogate = {self.surrogate}: has no gradient; use smooth_ppo")
        return self


class SupervisedMAMLConfig(RunConfig):
    """Few-shot regression with MAML."""

    algorithm: Literal["supervised_maml"] = Field(description=ALGORITHM)
    hidden: list[Width] = Field([40, 40], description="hidden layer widths")
    activation: Activation = Field("relu", description="activation function")
    init_std: Rate | None = Field(
        None, description="initial standard deviation of the weights; null: by layer width (LeCun normal)"
    )
    shots: Positive = Field(10, description="labelled examples that adaptation sees")
    queries: Positive = Field(10, description="labelled examples of the meta-loss")
    num_inner_steps: Count = Field(1, description="gradient steps on the shots")
    inner_lr: Rate = Field(0.01, description="inner step size")
    outer_lr: Rate = Field(1e-3, description="Adam step size of the outer update")
    meta_batch_size: Positive = Field(25, description="tasks an iteration")
    differentiation: Literal["reverse", "mixed", "first_order"] = Field(
        "reverse", description="how the meta-gradient gets through the inner steps; first_order is FOMAML"
    )
    eval_tasks: Positive = Field(1000, description="held-out tasks")
    eval_episodes: Positive = Field(100, description="query examples a task")
    eval_updates: Count = Field(3, description="gradient steps at evaluation")


Config = GradientConfig | PPOConfig | TrialConfig | RuleConfig | SupervisedMAMLConfig
SCHEMAS: dict[str, type[RunConfig]] = {
    "maml": MAMLConfig,
    "maml_trpo": MAMLTRPOConfig,
    "promp": ProMPConfig,
    "e_maml": EMAMLConfig,
    "reptile": ReptileConfig,
    "anil": ANILConfig,
    "meta_sgd": MetaSGDConfig,
    "cavia": CAVIAConfig,
    "imaml": IMAMLConfig,
    "ppo": PPOConfig,
    "meta_gradient_rl": MetaGradientRLConfig,
    "lirpg": LIRPGConfig,
    "lpg": LPGConfig,
    "lpo": LPOConfig,
    "rl2": RL2Config,
    "varibad": VariBADConfig,
    "supervised_maml": SupervisedMAMLConfig,
}


def _no_epochs_on_policy(key: str, epochs: int, name: str, surrogate: str) -> None:
    if epochs > 1 and surrogate in ON_POLICY:
        raise ConfigError(
            f"{key} = {epochs}: must be 1 with {name} = {surrogate}, which has no likelihood ratio; use lvc or ppo"
        )
