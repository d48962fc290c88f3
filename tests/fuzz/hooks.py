"""What schemathesis must know of the API beyond JSON Schema: formats, and rules between fields."""

from datetime import UTC, datetime

import schemathesis
from hypothesis import strategies as st

from api.values import ZONES

schemathesis.openapi.format("iana-timezone", st.sampled_from(sorted(ZONES)))
