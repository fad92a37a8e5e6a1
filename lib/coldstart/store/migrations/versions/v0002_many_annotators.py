"""Clicks of many annotators: what rarely changes has a revision, what changes with each click has indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

OF_POOL = "image_id, present, held_out, problem, map_id, point, cluster, entropy, scoring_id"
TOPICS: dict[str, dict[str, str | None]] = {
    "pool": {
        "images": OF_POOL,  # neither vectors nor paths: an embedding run changes nothing of what is served
        "maps": None,
        "plans": None,
        "plan_picks": None,
        "models": None,
        "scorings": None,
    },
    "labels": {"labels": None},
}
"""Tables of each topic, with the columns that count where not all do."""


def upgrade() -> None:
    """Add the revisions with their triggers, and the indexes."""
    revisions = op.create_table(
        "revisions",
        sa.Column("topic", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
    )
    for topic, tables in TOPICS.items():
        op.execute(revisions.insert().values(topic=topic, number=sa.text("abs(random() / 2)")))
        for table, columns in tables.items():
            for event in ("INSERT", f"UPDATE OF {columns}" if columns else "UPDATE", "DELETE"):
                name = f"revise_{table}_{event.split()[0].lower()}"
                raised = f"UPDATE revisions SET number = number + 1 WHERE topic = '{topic}'"  # noqa: S608  our own words
                op.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} BEGIN {raised}; END")
    # Holds all that serving reads into memory, apart from the rows with their large vectors.
    op.create_index("ix_images_pool", "images", OF_POOL.split(", "))
    is_open = sa.text("outcome IS NULL")
    op.create_index("ix_servings_open", "servings", ["served_at", "image_row", "annotator"], sqlite_where=is_open)
    op.create_index("ix_servings_open_annotator", "servings", ["annotator"], sqlite_where=is_open)
    op.create_index("ix_servings_skipped", "servings", ["image_row"], sqlite_where=sa.text("outcome = 'skipped'"))
    op.create_index("ix_servings_scoring_id", "servings", ["scoring_id"])
