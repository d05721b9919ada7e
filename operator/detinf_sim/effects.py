"""What a fault does to an emission, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effect:
    """How an emission is changed; the default changes nothing. Those of several faults add up."""

    ulps: int = 0
    """Numerics: all logprobs lie so many units in the last place further from zero."""
    corrupt: str = ""
    """KV or weights: the state that the model sees is another one, named so."""
    draw: str = ""
    """Sampler: the random number is drawn under this name, too."""
    rewind: int = 0
    """Sampler: the generator stands so many draws behind."""
    ties: bool = False
    """Sampler: of equally probable tokens, those with the higher ids come first."""
    flip: float = 0.0
    """Sampler: the second most probable token is emitted where it is closer to the first than so many nats."""
    nan: bool = False
    """The logits are NaN."""
    floors: bool = False
    """Sampler: beside the chosen token only token 0 is listed, at vLLM's floor; so is its own logprob."""
    digits: int | None = None
    """A proxy: logprobs are rounded to so many decimals."""
    stale: int = 0
    """The prompt's logprobs: so many of the first ones are what another request left in the buffer."""

    def __add__(self, other: Effect) -> Effect:
        """Return both together."""
        digits = [item for item in (self.digits, other.digits) if item is not None]
        return Effect(
            self.ulps + other.ulps,
            self.corrupt + other.corrupt,
            self.draw + other.draw,
            self.rewind + other.rewind,
            self.ties or other.ties,
            max(self.flip, other.flip),
            self.nan or other.nan,
            self.floors or other.floors,
            min(digits) if digits else None,
            max(self.stale, other.stale),
        )


NOTHING = Effect()
