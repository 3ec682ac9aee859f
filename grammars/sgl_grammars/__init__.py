"""Constraints on generated text: specs, compilers, matchers, forced tokens, tool-call formats.

Import from the modules: `sgl_grammars.spec` (light), `sgl_grammars.compiler`, `sgl_grammars.matcher`.
"""
