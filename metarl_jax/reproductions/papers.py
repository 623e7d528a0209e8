"""Where the settings of published experiments are: configs/papers, in a checkout or inside the installed package."""

from pathlib import Path


def paper_config(name: str) -> Path:
    """The YAML file of that name."""
    package = Path(__file__).resolve().parents[1]
    candidates = [base / "configs" / "papers" / f"{name}.yaml" for base in (package.parent, package)]
    return next((path for path in candidates if path.is_file()), candidates[0])
