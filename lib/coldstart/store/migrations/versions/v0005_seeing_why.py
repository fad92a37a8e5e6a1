"""Why each image was chosen, how well it had been predicted, and what was set on the map page."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TOPICS = {"judgements": "judgements", "settings": "chosen_settings"}
"""Table of each topic."""


def upgrade() -> None:
    """Add the selection log, which is only ever added to, the judgements and the chosen settings."""
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String, nullable=False, index=True),
        sa.Column("who", sa.String),
        sa.Column("image_id", sa.String, index=True),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("arrays", sa.LargeBinary),
        sa.Column("seal", sa.String, nullable=False),
    )
    # A line that takes the place of another (REPLACE) is neither an update nor, for triggers, a removal.
    replaced = "insert ON decisions WHEN EXISTS (SELECT 1 FROM decisions WHERE id = NEW.id)"
    for event in ("update ON decisions", "delete ON decisions", replaced):
        refused = "SELECT RAISE(ABORT, 'the selection log is only ever added to')"
        op.execute(f"CREATE TRIGGER keep_decisions_{event.split()[0]} BEFORE {event} BEGIN {refused}; END")
    op.create_table(
        "judgements",
        sa.Column("image", sa.Integer, sa.ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("model_version", sa.String, primary_key=True),
        sa.Column("label_signature", sa.String, nullable=False),
        sa.Column("judged_at", sa.Double, nullable=False),
        sa.Column("n_labels", sa.Integer, nullable=False),
        sa.Column("annotator", sa.String),
        sa.Column("dice", sa.Double),
        sa.Column("class_dice", sa.JSON, nullable=False),
    )
    op.create_table(
        "chosen_settings",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("configured", sa.JSON, nullable=False),
        sa.Column("who", sa.String),
        sa.Column("at", sa.Double, nullable=False),
    )
    revisions = sa.table("revisions", sa.column("topic"), sa.column("number"))
    for topic, table in TOPICS.items():
        op.execute(revisions.insert().values(topic=topic, number=sa.text("abs(random() / 2)")))
        raised = f"UPDATE revisions SET number = number + 1 WHERE topic = '{topic}'"  # noqa: S608  our own words
        for event in ("insert", "update", "delete"):
            op.execute(f"CREATE TRIGGER revise_{table}_{event} AFTER {event} ON {table} BEGIN {raised}; END")
