"""Beside LiteLLM's config.yaml, which names it in router_settings.plugins."""

from metarouter.integrations.litellm_plugin import plugin

__all__ = ["plugin"]
