"""The map page: its routes, and the pictures that they draw; knows no MONAI Label."""

from coldstart.web.page import Page, Viewer
from coldstart.web.routes import create_router

__all__ = ["Page", "Viewer", "create_router"]
