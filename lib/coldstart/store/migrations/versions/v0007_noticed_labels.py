"""When a label was noticed that had been saved earlier: its own time is another one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the time; none is known of the labels that are there, whose `saved_at` is when they were noticed."""
    op.add_column("labels", sa.Column("noticed_at", sa.Double))
