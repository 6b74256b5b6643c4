"""How shapes and types are checked while the tests run: as type checkers do, a whole number is welcome as a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
