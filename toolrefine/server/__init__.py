"""Adaptive refinement of tool calls behind the OpenAI API: a proxy before any compatible server, or a model in process.

Requests without tools pass through untouched. With tools, the draft is asked for as the client asked for it; only where
the policy sees a fault in it do further rounds follow, and whatever fails in them, the draft stands.
"""

from __future__ import annotations
