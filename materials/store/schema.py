"""Schema of the ledger: its tables, and the view that people query.

Everything but `rankings` and `systems` is append-only. Those two are derived: what `publish` last said of each
material, and how many rows each chemical system has among them.
`sequence` columns order what may be said more than once; the latest holds.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

SCHEMA_VERSION = 4

metadata = MetaData()


def _campaign() -> Column[str]:
    return Column("campaign_id", Text, ForeignKey("campaigns.campaign_id"), nullable=False)


def _sequence() -> Column[int]:
    return Column("sequence", Integer, primary_key=True, autoincrement=True)


def _text(name: str, *, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, nullable=False, primary_key=primary_key)


def _number(name: str) -> Column[float]:
    return Column(name, Float(precision=53), nullable=True)


def _json(name: str) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=True)


schema_version = Table("schema_version", metadata, Column("version", Integer, nullable=False))

campaigns = Table(
    "campaigns",
    metadata,
    _text("campaign_id", primary_key=True),
    _text("name"),
    _text("config_hash"),
    _json("config"),
    _text("created_at"),
)

runs = Table(
    "runs",
    metadata,
    _text("run_id", primary_key=True),
    _campaign(),
    _text("started_at"),
    Column("ended_at", Text),
    _text("state"),
    _json("versions"),
    Column("weights_hash", Text),
    _json("config"),
    Column("budget", Integer),
)

candidates = Table(
    "candidates",
    metadata,
    _text("material_id", primary_key=True),
    _text("formula"),
    _text("chemsys"),
    Column("n_sites", Integer, nullable=False),
    _text("structure"),
)

proposals = Table(
    "proposals",
    metadata,
    _sequence(),
    _campaign(),
    _text("material_id"),
    _text("role"),
    _text("source"),
    _text("source_version"),
    _json("parents"),
    _json("known_as"),
    _text("content_hash"),
    UniqueConstraint("campaign_id", "material_id", "content_hash"),
)

equivalences = Table(
    "equivalences",
    metadata,
    _sequence(),
    _campaign(),
    _text("material_id"),
    _text("duplicate_of"),
    _text("stage"),
    UniqueConstraint("campaign_id", "material_id", "duplicate_of", "stage"),
)

calculations = Table(
    "calculations",
    metadata,
    _text("calculation_id", primary_key=True),
    Column("attempt", Integer, primary_key=True),
    _text("material_id"),
    _text("method"),
    _text("fidelity"),
    _text("level_of_theory"),
    _text("settings_hash"),
    _text("status"),
    Column("structure", Text),
    _number("energy"),
    _number("max_force"),
    _number("max_stress"),
    Column("n_steps", Integer, nullable=False),
    _number("wall_time_s"),
    _text("message"),
    _json("properties"),
    _text("content_hash"),
    _text("created_at"),
    Index("calculations_by_material", "material_id", "fidelity"),
    Index("calculations_by_method", "method", "level_of_theory", "settings_hash"),
)

stabilities = Table(
    "stabilities",
    metadata,
    _sequence(),
    _campaign(),
    _text("material_id"),
    _text("fidelity"),
    _text("level_of_theory"),
    _number("energy_above_hull"),
    _number("decomposition_energy_per_atom"),
    _number("formation_energy_per_atom"),
    _json("decomposition"),
    _text("reference_version"),
    Index("stabilities_by_material", "campaign_id", "fidelity", "material_id"),
)

predictions = Table(
    "predictions",
    metadata,
    Column("campaign_id", Text, ForeignKey("campaigns.campaign_id"), primary_key=True),
    Column("round", Integer, primary_key=True),
    _text("target", primary_key=True),
    _text("material_id", primary_key=True),
    _number("mean"),
    _number("std"),
    _text("surrogate_version"),
    Index("predictions_by_material", "material_id"),
)

selections = Table(
    "selections",
    metadata,
    Column("campaign_id", Text, ForeignKey("campaigns.campaign_id"), primary_key=True),
    _text("material_id", primary_key=True),
    Column("round", Integer, nullable=False),
    _text("acquisition"),
    _number("score"),
    Column("rank", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    # With a default: a process of version 2 that is still running says nothing of it.
    Column("why", JSON, nullable=False, server_default="{}"),
)

failures = Table(
    "failures",
    metadata,
    _sequence(),
    _campaign(),
    _text("material_id"),
    _text("stage"),
    _text("error"),
    _text("message"),
    Column("attempts", Integer, nullable=False),
    UniqueConstraint("campaign_id", "material_id", "stage", "error", "attempts"),
)

rankings = Table(
    "rankings",
    metadata,
    Column("campaign_id", Text, ForeignKey("campaigns.campaign_id"), primary_key=True),
    _text("material_id", primary_key=True),
    Column("rank", Integer, nullable=False),
    _text("formula"),
    _text("chemsys"),
    Column("n_sites", Integer, nullable=False),
    _text("parents"),
    _text("status"),
    Column("fidelity", Text),
    Column("level_of_theory", Text),
    _number("energy_above_hull"),
    _number("decomposition_energy_per_atom"),
    _number("formation_energy_per_atom"),
    _number("band_gap"),
    _number("score"),
    Column("meets_targets", Boolean),
    _number("energy_above_hull_mlip"),
    _number("decomposition_energy_mlip"),
    _number("formation_energy_mlip"),
    _number("predicted_decomposition_energy"),
    _number("predicted_decomposition_energy_std"),
    _number("predicted_band_gap"),
    _number("predicted_band_gap_std"),
    _json("predicted"),
    Column("round", Integer),
    Column("acquisition", Text),
    _number("volume_per_atom"),
    _text("known_as"),
    _text("message"),
    Column("pareto_front", Boolean),
    Column("magnetic_order", Text),
    _number("total_magnetization_per_formula_unit"),
)

systems = Table(
    "systems",
    metadata,
    Column("campaign_id", Text, ForeignKey("campaigns.campaign_id"), primary_key=True),
    _text("chemsys", primary_key=True),
    Column("n_rows", Integer, nullable=False),
)


def _ranking_index(name: str, *columns: Any) -> None:
    """Index rankings within a campaign; what is sorted by ends with the rank, for ties, and leaves out nulls.

    An index without its many nulls tells the planner how few rows have a band gap.
    """
    there = columns[0].is_not(None)
    sparse: dict[str, Any] = {"sqlite_where": there, "postgresql_where": there} if columns[0].nullable else {}
    ordered = [columns[0].desc() if columns[0] is rankings.c.score else columns[0], *columns[1:]]
    Index(f"rankings_by_{name}", rankings.c.campaign_id, *ordered, **sparse)


_ranking_index("rank", rankings.c.rank)
_ranking_index("status", rankings.c.status, rankings.c.rank)
_ranking_index("chemsys", rankings.c.chemsys)
SORTED_BY = (
    "score",
    "meets_targets",
    "energy_above_hull",
    "decomposition_energy_per_atom",
    "formation_energy_per_atom",
    "band_gap",
    "predicted_decomposition_energy",
    "predicted_band_gap",
    "formula",
)
for _name in SORTED_BY:
    _ranking_index(_name, rankings.c[_name], rankings.c.rank)

_VIEW_COLUMNS = ", ".join(f'rankings."{column.name}"' for column in rankings.columns if column.name != "campaign_id")
CREATE_VIEW = text(
    f"CREATE VIEW ranked_candidates AS SELECT campaigns.name AS campaign, rankings.campaign_id, {_VIEW_COLUMNS} "
    "FROM rankings JOIN campaigns ON campaigns.campaign_id = rankings.campaign_id"
)

# A stand-in for the view, in metadata of its own so that create_all makes no table of it.
ranked_candidates = Table(
    "ranked_candidates",
    MetaData(),
    Column("campaign", Text),
    *[Column(column.name, column.type) for column in rankings.columns],
)
