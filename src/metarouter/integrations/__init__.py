"""Routers inside other gateways; nothing here imports those."""
