"""Installing a model: from a published encoder, or from a model that is installed elsewhere, to a model's directory."""

from collections.abc import Callable

Report = Callable[[str], None]  # gets a line before each long step
