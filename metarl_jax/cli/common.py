"""What the commands share: messages, JAX's set-up, configurations by name. Heavy imports wait until they are needed."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarl_jax.algorithms import registry
from metarl_jax.options import ConfigError, shortened, suggest
from metarl_jax.runs import files
from metarl_jax.runs.config import config_directory


def say(message: Any) -> None:
    """Print a message for people, on stderr."""
    print(message, file=sys.stderr, flush=True)


def prepare_jax(a_device_for_every_core: bool = False) -> None:
    """Keep compiled programs between runs; where asked, let each CPU core be a device."""
    from metarl_jax import devices

    devices.keep_compiled_programs()
    if a_device_for_every_core:
        devices.one_for_every_core()


def recall(directory: Path) -> None:
    """Find a user's own parts of a run again."""
    if (directory / "parts.json").is_file():
        from metarl_jax.runs import user_parts

        user_parts.recall(directory)


@contextmanager
def interruptible(how: str) -> Iterator[None]:
    """An interrupt inside says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{how} goes on from what is kept there") from None


def find_config(name: str, also: Iterable[str] = ()) -> Path:
    """The YAML file of that path, or the shipped configuration of that name; `also`: names to suggest.

    Raises: ConfigError with the nearest name.
    """
    path = Path(name)
    with files.worded(f"config {shortened(name)}"):
        if path.is_file() or path.suffix in (".yaml", ".yml") and (path.exists() or path.parent != Path(".")):
            return path
    found = config_directory() / (path.name if path.suffix == ".yaml" else f"{name}.yaml")
    if found.exists():
        return found
    known = sorted(p.stem for p in config_directory().glob("*.yaml"))
    if name in registry.names():
        texts = {stem: (config_directory() / f"{stem}.yaml").read_text() for stem in known}
        own = [stem for stem, text in texts.items() if f"algorithm: {name}\n" in text]
        raise ConfigError(
            f"config {name}: is an algorithm; configurations of it: {', '.join(own) or 'none is shipped'}"
        )
    beside = [str(p) for p in path.parent.glob("*.yaml")] if path.suffix in (".yaml", ".yml") else []
    what = "is a directory" if path.is_dir() else "no such file"
    near = suggest(name, beside) or suggest(path.stem, [*known, *also])
    hint = near or f", which are {', '.join(known)}"
    raise ConfigError(f"config {shortened(name)}: {what}, and not one of `metarl list`{hint}")


def say_horizon(job: Any, tell: Callable[[Any], None] = say) -> None:
    """That episodes are of another length than the environment's own, which pads them or cuts them off."""
    asked, own = getattr(job.config, "horizon", None), getattr(job.tasks, "horizon", None)
    if asked is not None and own is not None and asked != own:
        what = f"episodes of {job.config.env} end after {own} steps"
        what += ", and the rest of each is padding" if asked > own else " of their own, and are cut off"
        tell(f"horizon = {asked}: {what}; horizon=null takes {own}")


def new_run_dir(name: str, resume: bool) -> Path:
    """Where a run goes that was given no directory.

    Raises: ConfigError for `resume`, which needs one.
    """
    if resume:
        raise ConfigError("--resume needs --run-dir, to know which run to go on with")
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
