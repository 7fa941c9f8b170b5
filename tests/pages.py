"""A page of HTML as tests look at it."""

import html.parser
import re

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
  """Checks that tags are balanced; keeps text, what is loaded, and where links lead."""

  def __init__(self, source):
    super().__init__()
    self.open, self.ids, self.loads, self.parts = [], [], [], []
    self.tags, self.links, self._command = [], [], False
    self.feed(source)
    self.close()
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append(tag)
    self.ids += [attrs["id"]] if "id" in attrs else []
    loading = ("src", "href", "xlink:href")
    found = [attrs[k] for k in loading if k in attrs]
    if tag == "a":  # is followed, not loaded
      self.links += found
    else:
      self.loads += found
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, tag
    self._command = self._command and tag != "pre"

  def handle_data(self, data):
    if self.open and self.open[-1] != "style":
      if self.parts and self._command and "pre" in self.open:
        self.parts[-1] += data  # words of a command are elements
      else:
        self.parts.append(data)
      self._command = "pre" in self.open

  @property
  def text(self):
    return re.sub(r"\s+", " ", " ".join(self.parts))
