"""The options of verbs that can keep to a part of a search space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gennape.jobs.shared.own_code import file_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gennape.search_spaces.families.space import SearchSpace

FixedGenes = Annotated[
    list[str] | None,
    typer.Option(
        "--fix",
        metavar="GENE=VALUES",
        help="Keep genes, by name or pattern, to some values: 'kernel*=3,5'. May be repeated.",
        show_default="none",
    ),
]
SubspaceFile = Annotated[
    str | None,
    file_option("JSON file of the values that genes keep to, by name or pattern.", "--subspace"),
]


def part(space: SearchSpace, fix: Sequence[str] | None, subspace: str | None) -> SearchSpace:
    """The part of a search space that the options name, whose size is printed; the space itself without options."""
    from gennape.search_spaces.families.subspace import fixed_genes, parse_fix
    from gennape.search_spaces.families.subspace import subspace as part_of

    found = part_of(space, map(parse_fix, fixed_genes(fix or (), subspace)))
    if found is not space:
        typer.echo(repr(found), err=True)
    return found
