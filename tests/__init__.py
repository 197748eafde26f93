"""Tests of the generated package."""
