"""Where the configurations are: configs/ and, of published experiments, configs/papers/."""

from pathlib import Path


def shipped_config(name: str) -> Path:
    """configs/NAME.yaml, in a checkout or inside the installed package."""
    package = Path(__file__).resolve().parent.parent
    candidates = [base / "configs" / f"{name}.yaml" for base in (package.parent, package)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def paper_config(name: str) -> Path:
    """configs/papers/NAME.yaml."""
    return shipped_config(f"papers/{name}")
