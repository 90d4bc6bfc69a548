"""The page of a workspace: its runs and their fronts while they grow, in a browser."""

from gennape.platform.ui.server import Page, serve_page

__all__ = ["Page", "serve_page"]
