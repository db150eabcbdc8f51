"""A first sweep file for a file of data: `adapad init`."""

from adapad_ray.draft.spec_file import Draft, draft_spec

__all__ = ["Draft", "draft_spec"]
