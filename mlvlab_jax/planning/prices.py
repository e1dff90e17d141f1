"""What a device costs by the hour. Prices change: these are list prices of one day, and `--price` overrides them."""

from types import MappingProxyType

DATE = "2025-06"
SOURCE = "cloud.google.com/tpu/pricing, on demand, us-central1, us-east5 or nearest"
#: `Hardware.name` -> US dollars for a chip and hour; a device that is not listed has no known price.
PRICES = MappingProxyType({"TPU v4": 3.22, "TPU v5e": 1.20, "TPU v5p": 4.20, "TPU v6e": 2.70})
