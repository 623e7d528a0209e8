"""The keys of the algorithms on trials: learners with a memory."""

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


class TrialConfig(RunConfig):
    """What every learner with a memory has: PPO between trials of several episodes on one task."""

    algorithm: str
    num_episodes: Positive = Field(description="episodes of a trial")
    horizon: Positive | None = Field(None, description="steps an episode; null: the environment's own")
    meta_batch_size: Positive = Field(256, description="tasks an iteration")
    trials_per_task: Positive = Field(1, description="trials of each of them")
    lr: Rate = Field(1e-3, description="Adam step size of the policy")
    anneal_lr: bool = Field(True, description="anneal that step size linearly to 0")
    num_epochs: Positive = Field(4, description="passes over the data an iteration")
    clip_eps: Rate = Field(0.2, description="PPO clip")
    value_clip_eps: Rate | None = Field(None, description="clip of the value loss; null: none")
    gamma: Unit = Field(0.99, description="discount, which runs across the episodes of a trial")
    gae_lambda: Unit = Field(0.3, description="lambda of generalised advantage estimation")
    entropy_coef: NonNegative = Field(0.01, description="weight of the entropy bonus")
    anneal_entropy: bool = Field(False, description="anneal that weight linearly to 0")
    value_coef: NonNegative = Field(0.5, description="weight of the critic's loss")
    max_grad_norm: Rate = Field(0.5, description="bound on the gradient's norm")
    normalize_advantage: bool = Field(True, description="standardise advantages over the iteration")
    reward_scale: Rate = Field(1.0, description="factor on the rewards that PPO learns from; scores are unscaled")
    init_std: Rate = Field(1.0, description="initial standard deviation of a Gaussian policy")
    eval_episodes: Positive = Field(20, description="evaluation trials a task")

    @property
    def eval_updates(self) -> int:
        """What a trial is scored after: each of its episodes but the first counts as one more update."""
        return self.num_episodes - 1


class RL2Config(TrialConfig):
    """A recurrent network or a transformer that learns in context."""

    algorithm: Literal["rl2"] = Field(description=ALGORITHM)
    num_minibatches: Positive = Field(8, description="parts of the trials in each pass")
    center_rewards: bool = Field(
        False, description="learn from rewards less their mean over the iteration's trials at the same step"
    )
    network: Literal["gru", "lstm", "transformer"] = Field("gru", description="what remembers")
    size: Width = Field(64, description="hidden units, or the width of the transformer's residual stream")
    chunk: Positive | None = Field(
        None, description="gru, lstm: steps between rematerialisations in the backward pass; null: none"
    )
    truncate: bool = Field(False, description="gru, lstm: stop gradients at the chunks (truncated back-propagation)")
    long_memory: bool = Field(False, description="gru, lstm: gates start by remembering, for up to a whole trial")
    context: Positive | None = Field(None, description="transformer: the longest trial in steps; null: this one's")
    num_layers: Positive = Field(2, description="transformer: layers")
    num_heads: Positive = Field(4, description="transformer: attention heads")

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        trials = self.meta_batch_size * self.trials_per_task
        check_divides("num_minibatches", self.num_minibatches, trials, "meta_batch_size * trials_per_task")
        if self.network == "transformer":
            check_divides("num_heads", self.num_heads, self.size, "size")
            if self.chunk is not None or self.truncate or self.long_memory:
                raise ConfigError("chunk, truncate and long_memory: are of gru and lstm; a transformer has no gates")
        elif self.truncate and self.chunk is None:
            raise ConfigError("truncate = true: needs chunk, the number of steps that a gradient goes back")
        return self


class VariBADConfig(TrialConfig):
    """A variational belief over tasks, and a policy that acts on it."""

    algorithm: Literal["varibad"] = Field(description=ALGORITHM)
    meta_batch_size: Positive = Field(64, description="tasks an iteration")
    lr: Rate = Field(7e-4, description="Adam step size of the policy")
    num_epochs: Positive = Field(2, description="passes over the data an iteration")
    num_minibatches: Positive = Field(4, description="parts of the steps in each pass")
    clip_eps: Rate = Field(0.05, description="PPO clip")
    gamma: Unit = Field(0.95, description="discount, which runs across the episodes of a trial")
    gae_lambda: Unit = Field(0.95, description="lambda of generalised advantage estimation")
    hidden: list[Width] = Field([32, 32], description="hidden layer widths of the policy")
    activation: Activation = Field("tanh", description="activation function of the policy")
    latent_size: Positive = Field(5, description="dimensions of the belief")
    encoder_size: Width = Field(64, description="hidden units of the encoder's GRU")
    decoder: Literal["mlp", "table"] = Field(
        "mlp", description="what foretells rewards; table: one for each state, which must be one-hot"
    )
    decoder_hidden: list[Width] = Field([32, 32], description="hidden layer widths of the decoder", min_length=1)
    condition: Literal["next_state", "state_action"] = Field(
        "next_state", description="what a reward is decoded from beside the belief"
    )
    reward_levels: list[float] | None = Field(
        None,
        description="[low, high] if the reward is one of two (Bernoulli); null: Gaussian",
        min_length=2,
        max_length=2,
    )
    kl_coef: NonNegative = Field(0.01, description="weight of KL(belief || belief a step before)")
    anneal_lr: bool = Field(True, description="anneal both step sizes linearly to 0")
    vae_lr: Rate = Field(1e-3, description="Adam step size of the encoder and the decoder")
    num_vae_updates: Positive = Field(3, description="steps on the ELBO an iteration")
    vae_batch_size: Positive | None = Field(None, description="trials in each of them; null: all")
    num_elbo_terms: Positive | None = Field(None, description="steps of a trial in each of them; null: all")

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        trials = self.meta_batch_size * self.trials_per_task
        if self.vae_batch_size is not None and self.vae_batch_size > trials:
            raise ConfigError(
                f"vae_batch_size = {self.vae_batch_size}: must be at most the {trials} trials of an iteration"
            )
        if self.reward_levels is not None and self.reward_levels[0] >= self.reward_levels[1]:
            raise ConfigError(f"reward_levels = {self.reward_levels}: must be [low, high] with low < high")
        return self
