"""Options that are fields of a configuration: range, default and help stand there, once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import typer
from pydantic import BaseModel, Field

from gennape.jobs.cli import app
from gennape.jobs.shared.config_options import field_option, help_of
from gennape.platform.search.settings import SearchConfig


class SomeModel(BaseModel):
    """Fields of pydantic."""

    number: int = Field(3, ge=1, le=9, description="A number.")
    name: str = Field(description="A name.")


@dataclass(frozen=True, slots=True)
class SomeDataclass:
    """The same of a dataclass."""

    name: str = field(metadata={"description": "A name."})
    number: int = field(default=3, metadata={"ge": 1, "le": 9, "description": "A number."})


@pytest.mark.parametrize("config", [SomeModel, SomeDataclass])
def test_an_option_says_what_its_field_says(config: type) -> None:
    option = field_option(config, "number", more="Or more.", metavar="N")
    assert (option.min, option.max, option.help, option.show_default) == (1, 9, "A number. Or more.", "3")
    assert option.metavar == "N"
    assert field_option(config, "number", show_default="3 or 4").show_default == "3 or 4"
    assert (help_of(config, "name"), field_option(config, "name").min) == ("A name.", None)


def test_options_of_a_search_are_its_settings() -> None:
    verbs: Any = typer.main.get_command(app)
    options = {option.name: option for option in verbs.commands["search"].params}
    shared = set(options) & set(SearchConfig.model_fields) - {"checkpoint"}
    assert shared >= {"space", "objectives", "evaluations", "islands", "population", "seed", "searcher", "asynchronous"}
    assert options["asynchronous"].secondary_opts == ["--synchronous", "--in-step"]
    for name in shared:
        assert options[name].help.startswith(str(SearchConfig.model_fields[name].description))


@pytest.mark.cluster
def test_configurations_that_options_come_from_are_light() -> None:
    """All verbs are read for the help of any."""
    program = (
        "import sys, typer, gennape.jobs.cli as cli; typer.main.get_command(cli.app); "
        "sys.exit(bool({'ray', 'torch', 'mlflow', 'pymoo', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
