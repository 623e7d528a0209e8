"""The algorithms by name: "module:ENTRY" addresses and one sentence, so that listing them imports nothing."""

from typing import Any

_HERE = "metarl_jax.algorithms"
ALGORITHMS: dict[str, tuple[str, str]] = {
    "maml": (f"{_HERE}.maml:ENTRY", "MAML with policy-gradient or PPO updates inside, Adam outside."),
    "maml_trpo": (f"{_HERE}.maml_trpo:ENTRY", "MAML with a policy-gradient step inside, a trust region outside."),
    "promp": (
        f"{_HERE}.promp:ENTRY",
        "Proximal meta-policy search: likelihood ratios inside, clipped outside, a KL penalty on sampling.",
    ),
    "e_maml": (f"{_HERE}.e_maml:ENTRY", "MAML with the term for how the policy chooses what it adapts to."),
    "reptile": (f"{_HERE}.reptile:ENTRY", "Steps towards the mean of the adapted parameters."),
    "anil": (f"{_HERE}.anil:ENTRY", "MAML in which only the last layer adapts."),
    "boil": (f"{_HERE}.boil:ENTRY", "MAML in which all but the last layer adapts."),
    "meta_sgd": (f"{_HERE}.meta_sgd:ENTRY", "MAML with a learned step size for every parameter."),
    "cavia": (
        f"{_HERE}.cavia:ENTRY",
        "MAML in which only a context input adapts, and the network is shared by all tasks.",
    ),
    "imaml": (f"{_HERE}.imaml:ENTRY", "MAML with implicit gradients of a regularised inner problem."),
    "ppo": (f"{_HERE}.ppo:ENTRY", "PPO on one environment."),
    "meta_gradient_rl": (
        f"{_HERE}.meta_gradient_rl:ENTRY",
        "One agent that tunes its own hyperparameters online by meta-gradients (MG, STACX, BMG), on one environment.",
    ),
    "lirpg": (f"{_HERE}.lirpg:ENTRY", "PPO on the environment's reward and a learned one."),
    "lpg": (f"{_HERE}.lpg:ENTRY", "A network that is the update: it says what policy and prediction move towards."),
    "lpo": (f"{_HERE}.lpo:ENTRY", "PPO with a learned drift in the place of its clip."),
    "rl2": (f"{_HERE}.rl2:ENTRY", "A recurrent network or a transformer that learns in context."),
    "varibad": (f"{_HERE}.varibad:ENTRY", "A variational belief over tasks, and a policy that acts on it."),
    "supervised_maml": (f"{_HERE}.supervised_maml:ENTRY", "Few-shot regression with MAML."),
}
GROUP = "metarl_jax.algorithms"  # of the entry points by which a package publishes its own
_registered: dict[str, tuple[Any, str]] = {}


def names() -> dict[str, str]:
    """Every known algorithm with its sentence: ours, registered ones, and those of installed packages."""
    found = {name: about for name, (_, about) in ALGORITHMS.items()}
    found |= {point.name: f"of {point.value.partition(':')[0]}" for point in _published() if point.name not in found}
    return found | {name: about for name, (_, about) in _registered.items()}


def register(name: str, entry: Any, description: str = "") -> None:
    """Add an algorithm: an `Entry`, or the address "my_package.my_module:ENTRY" of one.

    Raises: ValueError if the name is one of ours, or stands for another entry.
    """
    if name in ALGORITHMS or (name in _registered and isinstance(entry, str) and _registered[name][0] != entry):
        raise ValueError(f"algorithm name {name!r} is already taken; choose another")
    _registered[name] = (entry, description)


def entry(name: str) -> Any:
    """The `Entry` of an algorithm.

    Raises: ConfigError for an unknown name, with the nearest spelling, and for one that cannot be imported.
    """
    from metarl_jax.options import ConfigError, shortened, suggest  # heavier than a list of names
    from metarl_jax.user_code import load_address

    if name in _registered:
        found = _registered[name][0]
    elif name in ALGORITHMS:
        found = ALGORITHMS[name][0]
    else:
        point = next((point for point in _published() if point.name == name), None)
        if point is None:
            near = suggest(name, names())
            allowed = f"not known{near}" if near else f"must be one of {', '.join(names())}"
            raise ConfigError(f"algorithm = {shortened(name)!r}: {allowed}")
        found = point.value
    return load_address(found, "algorithm") if isinstance(found, str) else found


def _published() -> list[Any]:
    import importlib.metadata

    return list(importlib.metadata.entry_points(group=GROUP))
