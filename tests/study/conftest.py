"""The small checkout as a fixture of these tests."""

from small_checkout import checkout  # noqa: F401
