"""A world that is worked out by hand: linear, with Gaussian noise, and a linear expert."""

import numpy as np

from totojax.jobs.robots import rollouts

GAIN = np.array([[0.6, 0.2], [-0.1, 0.5]], np.float32)  # of the expert: u = -GAIN x


class Linear:
  """x' = x + u + noise; an episode succeeds where x comes near 0 and stays ten steps."""

  count, actions, felt, states, steps = 4, 2, 1, 2, 30

  def __init__(self, noise=0.01, near=0.1):
    self.noise, self.near = noise, near
    self.begun = 0

  def begin(self, seeds, *, drawn):
    del drawn
    self.begun += 1
    self.rngs = [np.random.default_rng(seed) for seed in seeds]
    self.x = np.stack([rng.normal(size=2) for rng in self.rngs]).astype(np.float32)
    self.held, self.left = np.zeros(len(seeds), int), np.full(len(seeds), self.steps)
    return self.seen()

  def seen(self):
    # The frame shows where x is, as two colours; what is felt is of no use.
    pixels = np.clip(127.5 + 40 * self.x, 0, 255).astype(np.uint8)
    image = np.zeros((len(self.x), 16, 16, 3), np.uint8)
    image[..., :2] = pixels[:, None, None]
    felt = np.ones((len(self.x), 1), np.float32)
    return rollouts.Seen(felt, self.x.copy(), image)

  def do(self, action_EA):
    noise = np.stack([rng.normal(size=2) for rng in self.rngs])
    self.x = (self.x + action_EA + self.noise * noise).astype(np.float32)
    near = np.linalg.norm(self.x, axis=1) < self.near
    self.held = np.where(near, self.held + 1, 0)
    self.left -= 1
    won = self.held >= 10
    return self.seen(), won | (self.left <= 0), won

  def expert(self, seen):
    return -seen.state_ES @ GAIN.T
