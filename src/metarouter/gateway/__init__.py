"""The gateway: an OpenAI-compatible server that adds a decision and changes nothing else.

Bodies pass as bytes. A request is parsed one level deep, its `model` is replaced
by the model that the policy chose, and whatever the upstream sends comes back as
it came. What decides is pure (:mod:`~metarouter.gateway.deciding`,
:mod:`~metarouter.gateway.wire`); what talks is :mod:`~metarouter.gateway.upstream`
and :mod:`~metarouter.gateway.proxy`.
"""
