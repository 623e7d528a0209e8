"""Networks by name, for configurations: ours, and a user's own by their address.

A factory takes the environment and options and returns a `Policy`: `factory(env, critic=True, **options)` for agents
that act on one observation, `factory(env, **options)` with `env` from `envs.trial` for policies with a memory.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from metarl_jax.networks.encoder import ENCODING
from metarl_jax.networks.mlp import mlp_policy
from metarl_jax.options import ConfigError, Part, is_address, one_of
from metarl_jax.types import Policy
from metarl_jax.user_code import load_address, place, said, same_factory

REGISTERED: dict[str, str | Callable[..., Policy]] = {}  # a user's own: name -> factory, or its address
MLP = Part(mlp_policy, ("hidden", "activation", "init_std", "min_std", "squash", *ENCODING))


def register(name: str, factory: str | Callable[..., Policy]) -> None:
    """Make a network known by a name, `network: NAME` in configurations.

    Raises: ValueError where the name stands for another factory. The same name again for the same factory is fine.
    """
    known = REGISTERED.get(name)
    if name in ("mlp", "gru", "lstm", "transformer") or (known is not None and not same_factory(known, factory)):
        raise ValueError(f"network name {name!r} is already taken; choose another")
    REGISTERED[name] = factory


ELSE = ", or my_package.my_module:name"


def factory_of(name: str) -> str | Callable[..., Policy] | None:
    """What a name was registered with; None for ours and for addresses."""
    return REGISTERED.get(name)


def own_network(name: str) -> Callable[..., Policy] | None:
    """The user's factory of that name or address; None for one of ours."""
    factory = REGISTERED.get(name, name if is_address(name) else None)
    return load_address(factory, "network") if isinstance(factory, str) else factory


def _keys(
    network: Annotated[Any, one_of(lambda: ("mlp", *REGISTERED), ELSE), "the network: ours, or your own"] = "mlp",
    network_options: Annotated[dict[str, Any], "options of your own network"] = {},  # noqa: B006 (never changed)
) -> None:
    """The keys that name a network."""


NAMED = Part(_keys)


def network_part() -> tuple[Part, Part]:
    """The keys of an agent's network: its name, and the options of ours."""
    return NAMED, MLP


def build_policy(c: Any, env: Any, *, critic: bool, context_size: int = 0) -> Policy:
    """The policy that a configuration names.

    Raises: ConfigError for a network that cannot be imported or does not take its options, and for options of ours
        beside a network of the user's own.
    """
    factory = own_network(c.network)
    if factory is None:
        if c.network_options:
            raise ConfigError(f"network_options = {c.network_options}: are for a network of your own, not {c.network}")
        return MLP(c, env, critic=critic, context_size=context_size)
    check_of_ours(c, MLP.keys.values(), "mlp")
    more = {"context_size": context_size} if context_size else {}
    return call_own(factory, c.network, env, critic=critic, **more, **c.network_options)


def check_of_ours(c: Any, keys: Iterable[str], ours: str) -> None:
    """Raises: ConfigError for an option of our networks that is given beside a network of the user's own."""
    for key in keys:
        if getattr(c, key) != type(c).model_fields[key].default:
            raise ConfigError(f"{key} = {getattr(c, key)}: is of network = {ours}; give your own network_options")


def call_own(factory: Callable[..., Policy], name: str, env: Any, **options: Any) -> Policy:
    """A user's factory, called; its mistakes are one line.

    Raises: ConfigError.
    """
    try:
        policy = factory(env, **options)
    except Exception as error:  # whatever the user's factory raises
        raise ConfigError(f"network = {name} with options {options}: {said(error)}{place(error)}") from error
    if not isinstance(policy, Policy):
        raise ConfigError(f"network = {name}: must return a metarl_jax.types.Policy, not {type(policy).__name__}")
    if options.get("critic") and policy.value is None:
        raise ConfigError(f"network = {name}: returned a policy without a critic, which is needed here")
    return policy
