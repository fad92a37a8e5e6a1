"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "maps",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("configured", sa.String, nullable=False),
        sa.Column("encoder", sa.String, nullable=False),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("random_state", sa.Integer, nullable=False),
    )
    op.create_table(
        "scorings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("model_version", sa.String, nullable=False),
        sa.Column("finished_at", sa.Double, nullable=False),
        sa.Column("n_images", sa.Integer, nullable=False),
        sa.Column("minimum", sa.Double, nullable=False),
        sa.Column("maximum", sa.Double, nullable=False),
        sa.Column("mean", sa.Double, nullable=False),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("image_id", sa.String, nullable=False, unique=True),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("signature", sa.String, nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
        sa.Column("present", sa.Boolean, nullable=False),
        sa.Column("held_out", sa.Boolean, nullable=False),
        sa.Column("problem", sa.String),
        sa.Column("encoder", sa.String),
        sa.Column("vector", sa.LargeBinary),
        sa.Column("map_id", sa.Integer, sa.ForeignKey("maps.id")),
        sa.Column("point", sa.LargeBinary),
        sa.Column("fitted", sa.Boolean, nullable=False),
        sa.Column("cluster", sa.Integer),
        sa.Column("entropy", sa.Double),
        sa.Column("scoring_id", sa.Integer, sa.ForeignKey("scorings.id")),
    )
    op.create_table(
        "former_points",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("map_id", sa.Integer, sa.ForeignKey("maps.id"), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("point", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "labels",
        sa.Column("image", sa.Integer, sa.ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("signature", sa.String, nullable=False),
        sa.Column("saved_at", sa.Double, nullable=False),
        sa.Column("annotator", sa.String),
        sa.Column("label_info", sa.JSON),
        sa.Column("class_of_value", sa.JSON),
        sa.Column("problem", sa.String),
    )
    op.create_table(
        "servings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("image_row", sa.Integer, sa.ForeignKey("images.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("annotator", sa.String),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("phase", sa.String, nullable=False),
        sa.Column("why", sa.JSON, nullable=False),
        sa.Column("scoring_id", sa.Integer, sa.ForeignKey("scorings.id")),
        sa.Column("served_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("outcome", sa.String),
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("map_id", sa.Integer, sa.ForeignKey("maps.id"), nullable=False),
        sa.Column("budget", sa.Integer, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("n_clusters", sa.Integer, nullable=False),
        sa.Column("silhouettes", sa.JSON, nullable=False),
        sa.Column("silhouette_sample_size", sa.Integer),
    )
    op.create_table(
        "plan_picks",
        sa.Column("plan_id", sa.Integer, sa.ForeignKey("plans.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("rank", sa.Integer, primary_key=True),
        sa.Column("image_row", sa.Integer, sa.ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
        sa.Column("cluster", sa.Integer, nullable=False),
        sa.Column("cluster_size", sa.Integer, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("distance", sa.Double),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("version", sa.String, nullable=False, unique=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
    op.create_table(
        "progress",
        sa.Column("task", sa.String, primary_key=True),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("message", sa.String, nullable=False),
    )
