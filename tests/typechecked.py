"""The checker of annotated shapes and types, see `conftest`: whole numbers are numbers too."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
