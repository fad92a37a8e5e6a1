"""Image files to embedding vectors."""

from coldstart.embedding.encoder import Encoder
from coldstart.embedding.factory import create_encoder
from coldstart.embedding.files import embed_files

__all__ = ["Encoder", "create_encoder", "embed_files"]
