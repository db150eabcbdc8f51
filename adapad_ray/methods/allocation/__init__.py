"""Methods that allocate ranks from gradients measured before any component trains."""

from adapad_ray.methods.allocation.fim import Fim
from adapad_ray.methods.allocation.gora import Gora

__all__ = ["Fim", "Gora"]
