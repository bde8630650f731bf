"""Conformance checks for plugin authors: call one in a test of your own distribution.

    from snnrobust.testing import check_plugin

    def test_my_attack():
        check_plugin("my-attack")

Each check raises a `PluginError` that says what is wrong and what to do.
"""

from snnrobust.testing.conformance import check_plugin
from snnrobust.testing.tiny import tiny_data, tiny_model

__all__ = ["check_plugin", "tiny_data", "tiny_model"]
