"""Vectors of replaced images that had been placed on a map: to decide again what was decided with them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Tell them from those of images that made a map, of which alone there were rows until now."""
    op.add_column("former_points", sa.Column("fitted", sa.Boolean, nullable=False, server_default=sa.true()))
