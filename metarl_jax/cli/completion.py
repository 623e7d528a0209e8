"""Completion of `metarl` in a shell: `metarl completion bash` writes what the shell is to read."""

import argparse
from pathlib import Path

from metarl_jax.cli.parser import parser
from metarl_jax.options import ConfigError, shortened, suggest
from metarl_jax.reproductions import REPRODUCTIONS

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FILES = ("config", "what")  # arguments that may be a file beside the name of something


def completion(arguments: argparse.Namespace) -> int:
    """Print the script of a shell.

    Raises: ConfigError for a shell that is none of SHELLS, or without the package that writes the script.
    """
    shell = arguments.shell
    if shell not in SHELLS:
        raise ConfigError(f"completion {shortened(shell)}: must be one of {', '.join(SHELLS)}{suggest(shell, SHELLS)}")
    try:
        import shtab
    except ModuleNotFoundError:
        raise ConfigError("completion: needs shtab; pip install 'metarl_jax[completion]'") from None
    top = parser()
    (commands,) = (a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if action.type is Path or action.dest in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    for command, argument, names in (("reproduce", "name", REPRODUCTIONS), ("completion", "shell", SHELLS)):
        (action,) = (a for a in commands.choices[command]._actions if a.dest == argument)
        action.choices = list(names)
    print(shtab.complete(top, shell=shell))
    return 0
