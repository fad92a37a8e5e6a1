"""A revision for the servings: who keeps them in memory between clicks sees by it whether others wrote."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the topic with its triggers."""
    revisions = sa.table("revisions", sa.column("topic"), sa.column("number"))
    op.execute(revisions.insert().values(topic="servings", number=sa.text("abs(random() / 2)")))
    raised = "UPDATE revisions SET number = number + 1 WHERE topic = 'servings'"
    for event in ("insert", "update", "delete"):
        op.execute(f"CREATE TRIGGER revise_servings_{event} AFTER {event} ON servings BEGIN {raised}; END")
