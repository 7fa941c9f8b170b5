"""Recipes of jobs that make stores of pixels, or tokens of these, beside `recipes`."""

from ml_collections import ConfigDict

from totojax.config import roots


def render(train: int, val: int) -> ConfigDict:
  """`run = "render"`: labelled clips of moving textured objects."""
  c = roots.config("render")
  c.amount.update(train=train, val=val)
  return c


def decode(root: str) -> ConfigDict:
  """`run = "decode"`: clips out of a folder of videos (section 3.4)."""
  c = roots.config("decode")
  c.decoding.root = root
  return c


def photos(train: int, val: int) -> ConfigDict:
  """`run = "photos"`: squares, or clips, out of a few public-domain photographs."""
  c = roots.config("photos")
  c.amount.update(train=train, val=val)
  return c


def shards(pixels: str, weights: str) -> ConfigDict:
  """`run = "shards"`: pixels to tokens."""
  c = roots.config("shards")
  c.tokenizing.update(pixels=pixels, tokenizer=weights)
  return c
